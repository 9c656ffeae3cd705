"""Converted networks on the CPU beside everything that people would otherwise run, all sides in turn in one run.

Run as `python -m benchmarks.cpu` (or `make bench`); see README.md for the cases and the columns.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torchvision import models

import deltafx
from benchmarks import nanodet
from benchmarks.cpu_scaling import draw_scaling
from benchmarks.cpu_table import write_tables
from benchmarks.measure import Times, surroundings
from benchmarks.opponents import FLOAT32, OPPONENTS, Dense, Missing, Side
from deltafx.detections import Agreement
from deltafx.measure import relative_error, tensors_of
from deltafx.testing import blobs, clip, force, scale_weights

NETWORKS = (
    "resnet50", "mobilenet_v2", "nanodet", "deeplabv3_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn",
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None},
    "fcn_resnet50": {"weights_backbone": None},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"weights_backbone": None},
}
SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)  # of the frame, in blobs
LEAST_SHARE = 0.05  # of the MACs: a run with 5 % in blobs that computes less is void
TOLERANCE = {"f32": 1e-3, "bf16": 0.2}
FRAMES_OF_A_VISIT = 3  # the first of them, in which a case takes over from another one, does not count

HALF = ", bfloat16"  # at the end of the name of a case
HALF_CASES = ("5% in blobs", "everything changed")
STREAMS = (1, 2, 4, 8)
STREAMS_OF = ("resnet50", "mobilenet_v2")
STREAMS_SHARE = 0.05

# How a clip is run: what the table says of it, and what `convert` is told.
BALANCED = "balanced (gate 4 grey levels, 7x7; threshold 0.2)"
FAST = "fast (gate 8 grey levels, 7x7; threshold 0.4)"
CLIP_SETTINGS: dict[str, dict[str, Any]] = {
    BALANCED: {"mode": "balanced"},
    FAST: {"mode": "fast"},
    BALANCED + HALF: {"mode": "balanced"},
    FAST + HALF: {"mode": "fast"},
}


def dense_network(name: str, height: int, width: int, onnx: Path) -> Dense:
    """The network; with random weights activations stay near 1."""
    torch.manual_seed(0)
    if name == "nanodet":
        from deltafx.models_zoo.onnx_file import read_onnx

        return Dense(name, read_onnx(onnx), onnx=onnx)
    model = models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    if "detection" in type(model).__module__:
        for module in model.modules():
            if hasattr(module, "running_var"):
                module.running_var.fill_(0.1)  # random weights would let the picture fade
        return Dense(name, model, listed=True)
    return Dense(name, scale_weights(model, torch.cat(list(clip(6, height // 4, width // 4, streams=1)))))


def noisy(height: int, width: int) -> list[Tensor]:
    """Frames of one scene that differ from each other in every pixel."""
    generator = torch.Generator().manual_seed(0)
    (scene,) = clip(1, height, width, streams=1)
    return [scene + 0.05 * torch.randn(scene.shape, generator=generator) for _ in range(4)]


def masks(height: int, width: int) -> dict[str, Tensor | None]:
    """What is forced in each case; None: what is found counts."""
    one = torch.zeros(height, width)
    one[height // 2 : height // 2 + 32, width // 2 : width // 2 + 32] = 1
    shares = {f"{share:.0%} in blobs": blobs(height, width, share, size=48) for share in SHARES}
    return {"nothing changed": None, "one 32x32 blob": one, **shares, "everything changed": None}


def opponents(
    dense: Dense, frames: list[Tensor], names: list[str], threads: int
) -> tuple[dict[str, Side], dict[str, str]]:
    """Those that are there and compute what the network computes of these frames, and why the others are missing."""
    there: dict[str, Side] = {}
    missing: dict[str, str] = {}
    frame = frames[0]
    want = tensors_of(dense.model(dense.arguments(frame)))
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            started = time.perf_counter()
            try:
                side = OPPONENTS[name](dense, frame, Path(work), threads)
                for each in frames:  # a detector's later stages depend on the picture
                    side.run(side.prepare(each))
            except (Missing, RuntimeError) as reason:
                missing[name] = " ".join(str(reason).split())[-200:]
                print(f"{dense.name}: without {name}: {missing[name]}", flush=True)
                continue
            if not dense.listed:  # the boxes of random weights are no measure
                allowed = TOLERANCE["bf16" if "bf16" in name else "f32"]
                error = relative_error(tensors_of(side.run(side.prepare(frame))), want)
                if not error <= allowed:
                    raise SystemExit(f"{dense.name}: {name} differs by {error:.1e} (relative) from the network")
            there[name] = side
            print(f"{dense.name}: {name} is ready ({time.perf_counter() - started:.0f} s)", flush=True)
    return there, missing


class Case:
    """Our side in one case. Cases take turns with one converted network, whose state they share."""

    def __init__(self, dm: Any, dense: Dense, mask: Tensor | None, frames: list[Tensor]):
        """`mask` is `[H, W]` or `[N, H, W]`."""
        self.dm = dm
        self.mask = None if mask is None else (mask != 0).to(torch.uint8).view(-1, *mask.shape[-2:])
        self.frames = [dense.arguments(frame) for frame in frames]
        self.shown = 0
        self.seconds: list[float] = []
        self.share = 0.0

    def visit(self) -> None:
        force(self.dm, self.mask)
        for number in range(FRAMES_OF_A_VISIT):
            frame = self.frames[self.shown % len(self.frames)]
            self.shown += 1
            start = time.perf_counter()
            self.dm(frame)
            if number:
                self.seconds.append(time.perf_counter() - start)
        totals = deltafx.report(self.dm).totals
        self.share = totals["macs"] / totals["macs_dense"]
        force(self.dm, None)


def timed(run: Callable[[Any], Any], argument: Any) -> float:
    start = time.perf_counter()
    run(argument)
    return time.perf_counter() - start


def measure_cases(dense: Dense, height: int, width: int, seconds: float, names: list[str], options: Any) -> Any:
    """Every case of a network, beside the opponents, whose time is the same in all of them."""
    frames = [frame.sigmoid() if dense.listed else frame for frame in noisy(height, width)]
    sides, missing = opponents(dense, frames, names, torch.get_num_threads())
    prepared = {name: [side.prepare(frame) for frame in frames] for name, side in sides.items()}
    dm = deltafx.convert(dense.model, options=options)
    dm(dense.arguments(frames[1]))
    error = relative_error(
        tensors_of(dm(dense.arguments(frames[0]))), tensors_of(dense.model(dense.arguments(frames[0])))
    )
    if not error <= TOLERANCE["f32"]:
        raise SystemExit(f"{dense.name}: deltafx differs by {error:.1e} (relative) from the network")
    shown = {case: frames[:1] if case == "nothing changed" else frames for case in masks(height, width)}
    cases = {case: Case(dm, dense, mask, shown[case]) for case, mask in masks(height, width).items()}
    if not dense.listed:
        half = in_bfloat16(dense)
        converted = deltafx.convert(half.model, options=options)
        for case in HALF_CASES:
            cases[case + HALF] = Case(
                converted, half, masks(height, width)[case], [frame.bfloat16() for frame in frames]
            )
        converted(frames[1].bfloat16())
        got = tensors_of(converted(frames[0].bfloat16()))
        half_error = relative_error(got, tensors_of(dense.model(frames[0])))
        if not half_error <= TOLERANCE["bf16"]:
            raise SystemExit(
                f"{dense.name}: deltafx in bfloat16 differs by {half_error:.1e} (relative) from the network"
            )
    theirs: dict[str, list[float]] = {name: [] for name in sides}
    for number in rounds(cases.values(), seconds):
        for name, side in sides.items():
            took = [timed(side.run, prepared[name][i]) for i in (number % 4, (number + 1) % 4)]
            theirs[name] += took if number else []
    if cases["5% in blobs"].share < LEAST_SHARE:
        raise SystemExit(f"{dense.name}: VOID, only {cases['5% in blobs'].share:.1%} of the MACs were computed")
    return {
        "opponents": {name: Times.of(took).to_dict() for name, took in theirs.items()},
        "missing": missing,
        "cases": {name: {**Times.of(case.seconds).to_dict(), "share": case.share} for name, case in cases.items()},
        "error": error,
    }


def rounds(cases: Iterable[Case], seconds: float) -> Iterator[int]:
    """Numbers of rounds, in each of which every case has had its turn; the first does not count."""
    started, number = time.perf_counter(), 0
    while number <= 3 or time.perf_counter() - started < seconds:
        for case in cases:
            case.visit()
            if not number:
                case.seconds.clear()
        yield number
        number += 1


def in_bfloat16(dense: Dense) -> Dense:
    return dataclasses.replace(dense, model=copy.deepcopy(dense.model).bfloat16())


def measure_streams(dense: Dense, height: int, width: int, seconds: float, options: Any) -> Any:
    """One to several streams in one batch, at one update rate; frames of half the height and width."""
    height, width = height // 2, width // 2
    mask = blobs(height, width, STREAMS_SHARE, size=24)
    cases = {}
    for count in STREAMS:
        of_each = torch.stack([mask.roll((17 * n, 31 * n), (0, 1)) for n in range(count)])
        frames = [frame.expand(count, -1, -1, -1).contiguous() for frame in noisy(height, width)]
        dm = deltafx.convert(dense.model, options=options)
        dm(frames[0])
        cases[count] = Case(dm, dense, of_each, frames)
    for _ in rounds(cases.values(), seconds):
        pass
    streams = {str(count): {**Times.of(case.seconds).to_dict(), "share": case.share} for count, case in cases.items()}
    return {"frame": f"{width}x{height}", "streams": streams}


def measure_clip(
    dense: Dense, path: Path, height: int, width: int, count: int, names: list[str], options: Any
) -> dict[str, Any]:
    """A detector on a real clip, beside the opponents, with what thresholds cost in accuracy."""
    from deltafx.video import Video

    with Video(path) as video:
        raw = [torch.from_numpy(frame).permute(2, 0, 1)[None] for _, frame in zip(range(count), video.frames())]
    if raw[0].shape[2:] != (height, width):
        raise SystemExit(f"{path}: frames of {width}x{height} are needed")
    levels = nanodet.PREPROCESS.levels(torch.float32)
    frames = [nanodet.PREPROCESS.values(each, levels) for each in raw]
    sides, missing = opponents(dense, frames[:1], names, torch.get_num_threads())
    models = {"": dense.model, HALF: in_bfloat16(dense).model}
    halves = {name: name.endswith(HALF) for name in CLIP_SETTINGS}
    converted = {
        name: deltafx.convert(models[HALF if halves[name] else ""], options=options, **given)
        for name, given in CLIP_SETTINGS.items()
    }
    agreement = {name: Agreement() for name in converted}
    ours: dict[str, list[float]] = {name: [] for name in converted}
    macs: dict[str, list[float]] = {name: [] for name in converted}
    errors: dict[str, list[float]] = {name: [] for name in converted}
    theirs: dict[str, list[float]] = {name: [] for name in sides}
    for number, frame in enumerate(frames):
        want = tensors_of(dense.model(frame))
        for name, dm in converted.items():
            given = frame.bfloat16() if halves[name] else frame
            start = time.perf_counter()
            answer = dm(given)
            took = time.perf_counter() - start
            got = [each.float() for each in tensors_of(answer)]
            if number < 2:
                continue  # the first frame is in full
            totals = deltafx.report(dm).totals
            ours[name].append(took)
            macs[name].append(totals["macs"] / totals["macs_dense"])
            errors[name].append(relative_error(got, want))
            agreement[name].add(nanodet.detections(got)[0], nanodet.detections(want)[0])
        if number % 4 == 0:
            for name, side in sides.items():
                x = side.prepare(frame)
                side.run(x)
                theirs[name].append(timed(side.run, x))
    return {
        "opponents": {name: Times.of(took).to_dict() for name, took in theirs.items()},
        "missing": missing,
        "frames": len(frames),
        "cases": {
            name: {
                **Times.of(ours[name]).to_dict(),
                "mean": 1000 * sum(ours[name]) / len(ours[name]),
                "share": sum(macs[name]) / len(macs[name]),
                "error": sum(errors[name]) / len(errors[name]),
                "f1": agreement[name].f1,
                "f1_with_hysteresis": agreement[name].f1_with_hysteresis,
            }
            for name in converted
        },
    }


def main(
    networks: Annotated[str, typer.Option(help="names of torchvision and nanodet, with commas between")] = ",".join(
        NETWORKS
    ),
    height: int = 576,
    width: int = 768,
    threads: int = 2,
    isa: str | None = None,
    dense_switch: bool = True,
    seconds: Annotated[float, typer.Option(help="how long the cases of a network take at least")] = 30.0,
    against: Annotated[str, typer.Option(help="the opponents, with commas between")] = ",".join(OPPONENTS),
    onnx: Annotated[Path, typer.Option(help="NanoDet's file")] = Path("../shared/data/nanodet_g_576x768.onnx"),
    video: Annotated[Path, typer.Option(help="of a fixed camera, for NanoDet")] = Path("../shared/data/vtest.avi"),
    clip_frames: int = 60,
    again: Annotated[bool, typer.Option(help="measure also what is in the folder already")] = False,
    out: Annotated[Path, typer.Option(help="folder with a JSON for each network; beside it tables, NAME.md")] = Path(
        "benchmarks/results/cpu_opponents"
    ),
) -> None:
    """Measure converted networks on the CPU beside OpenVINO, ONNX Runtime and PyTorch."""
    torch.set_num_threads(threads)
    names = [name for name in against.split(",") if name]
    options = {"isa": isa, "dense_switch": dense_switch}
    out.mkdir(parents=True, exist_ok=True)
    facts = {**surroundings(), "frame": f"{width}x{height}", "dtype": "float32", **options}
    wanted = networks.split(",")
    with torch.inference_mode():
        more = ["nanodet clip"] if "nanodet" in wanted else []
        for name in [*wanted, *more, *(f"{each} streams" for each in STREAMS_OF if each in wanted)]:
            target = out / f"{name.replace(' ', '_')}.json"
            if target.is_file() and not again:
                print(f"{name}: {target} is there already", flush=True)
                continue
            needed = {"nanodet": [onnx], "nanodet clip": [onnx, video]}.get(name, [])
            if lacking := [str(path) for path in needed if not path.is_file()]:
                print(f"{name}: left out, there is no {' and no '.join(lacking)}", flush=True)
                continue
            dense = dense_network(name.split()[0], height, width, onnx)
            if name.endswith("clip"):
                found = measure_clip(dense, video, height, width, clip_frames, names, options)
            elif name.endswith("streams"):
                found = measure_streams(dense, height, width, seconds / 2, options)
            else:
                found = measure_cases(dense, height, width, seconds, names, options)
            target.write_text(json.dumps({"network": name, **facts, **found}, indent=1) + "\n")
            torch.compiler.reset()
    draw_scaling(out)
    write_tables(out, FLOAT32)


if __name__ == "__main__":
    typer.run(main)
