"""Converted networks on a GPU, forced masks and a real clip, beside the dense networks in four forms.

    python -m benchmarks.gpu --cases resnet50:8:720x1280 resnet50:1:720x1280:tf32 --out benchmarks/results/cuda

A case is NETWORK:BATCH:HEIGHTxWIDTH, with `:tf32` for float32 whose products are tf32 (float16 else), and with
`:clip` for the frames of --clip instead of forced masks. The whole call is timed with CUDA events, its host side
included; dense and converted networks of a case run in one process, each side in the order of the table, and each case
in a process of its own, where launches are counted last of all: what ran before, and the profiler, may slow what comes
after. A case is a JSON file in the folder --out as soon as it is measured, and is not measured again while it is there;
the table beside the folder is made of all of them (`python -m benchmarks.gpu_table FOLDER` adds the plots). Where time
is short: --seconds, after which no case is begun, --compile-ahead, for torch.compile on all processors, and
--tune-seconds, for max-autotune.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import deltafx
from benchmarks import gpu_networks
from benchmarks.gpu_clip import unpack
from benchmarks.gpu_figures import launches, least_bytes, output_bytes, peaks, tensors
from benchmarks.gpu_networks import Case, Missing
from benchmarks.gpu_opponents import compile_ahead, dense_times, dtype_of, on_device, use_tensor_cores
from benchmarks.gpu_table import brief, read, table
from benchmarks.gpu_times import milliseconds, once, summary
from benchmarks.measure import output_of
from deltafx.converted import graphs_of, settings_of
from deltafx.networks import IMAGENET
from deltafx.testing import blobs, clip, force_masks

SHARES = {
    "nothing": 0.0, "one 32x32 blob": None, "1 %": 0.01, "2 %": 0.02, "5 %": 0.05, "10 %": 0.1, "25 %": 0.25,
    "50 %": 0.5, "all": 1.0,
}  # fmt: skip
HEADLINES = ("resnet50:8:720x1280", "resnet50:1:1080x1920", "resnet50:1:720x1280")  # beside max-autotune too
CASES = (
    *HEADLINES,
    "resnet50:16:720x1280", "resnet50:8:720x1280:tf32", "resnet50:1:720x1280:tf32",
    "mobilenet_v2:8:720x1280", "mobilenet_v2:1:720x1280", "mobilenet_v2:16:720x1280",
    "fcn_resnet50:1:720x1280", "efficientnet_b0:1:720x1280", "efficientnet_b0:8:720x1280",
    "fasterrcnn_first_stage:1:720x1280", "fasterrcnn_first_stage:8:720x1280",
    "hrnet_w32:1:736x1280", "hrnet_w32:8:736x1280", "nanodet:1:576x768", "nanodet:8:576x768",
    "resnet50:1:576x768:clip", "mobilenet_v2:1:576x768:clip", "nanodet:1:576x768:clip",
)  # fmt: skip
MODES = ("balanced", "fast", "exact")
COUNTED = ("nothing", "5 %", "all")  # masks at which launches are counted: at rest, sparse and dense
WARM_FRAMES = 4  # in full, or before the frame is one graph


def mask_of(share: float | None, height: int, width: int) -> Tensor:
    if share is None:
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[height // 2 : height // 2 + 32, width // 2 : width // 2 + 32] = 1
        return mask.cuda()
    return (torch.ones(height, width, dtype=torch.uint8) if share == 1 else blobs(height, width, share)).cuda()


def relative_difference(got: Any, want: Any) -> float:
    pairs = list(zip(tensors(got), tensors(want), strict=True))
    change = sum((a.double() - b.double()).square().sum() for a, b in pairs)
    return float((change / sum(b.double().square().sum() for _, b in pairs)).sqrt())


def pictures(batch: int, height: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Two frames that differ in every pixel, of the kind that the weights are scaled for."""
    torch.manual_seed(0)
    (scene,) = clip(1, height, width, streams=1)
    both = [(scene + 0.05 * torch.randn(batch, *scene.shape[1:])).cuda().to(dtype) for _ in range(2)]
    return [frame.contiguous(memory_format=torch.channels_last) for frame in both]


def under_masks(
    dm: Any, case: Case, frames: list[Tensor], shares: dict[str, float | None]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What calls it, for every share in turn. All that is computed changes."""
    height, width = frames[0].shape[-2:]
    number = 0

    def call() -> Any:
        nonlocal number
        number += 1
        return dm(frames[number % len(frames)])

    for label, share in shares.items():
        with force_masks(dm, mask_of(share, height, width), gates=case.forces_gates):
            for _ in range(5):
                call()
            yield label, call


def work(dm: Any) -> dict[str, float]:
    """Of the last frame."""
    totals = deltafx.report(dm).totals
    return {"macs": totals["macs"], "share": totals["macs"] / totals["macs_dense"], "bytes": least_bytes(dm)}


def cut_frame(dm: Any, frames: list[Tensor]) -> dict[str, float]:
    """The first frame after the scene changed: every pixel is found to differ, after frames in which nothing did."""
    times = []
    for number in range(8):
        old, new = frames[number % 2], frames[(number + 1) % 2]
        for _ in range(6):
            dm(old)
        times.append(once(functools.partial(dm, new)))
    return summary(times)


def judged(found: dict[str, Any], best: float, dtype: torch.dtype) -> dict[str, Any]:
    """Beside the best dense execution and the device's peaks."""
    seconds = found["p50"] / 1000
    result = {**found, "times_faster": best / found["p50"]}
    result["tflops"], result["gbps"] = 2e-12 * found["macs"] / seconds, 1e-9 * found["bytes"] / seconds
    limits = peaks(dtype)
    if limits:
        result["of_peak_tflops"], result["of_peak_gbps"] = result["tflops"] / limits[0], result["gbps"] / limits[1]
    if found["share"]:
        result["distance_to_floor"] = found["p50"] / (best * found["share"])
    return result


@torch.no_grad()
def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    use_tensor_cores()
    network, batch, size, *rest = name.split(":")
    height, width = (int(x) for x in size.split("x"))
    dtype = dtype_of(name)
    begin = time.perf_counter()
    case = gpu_networks.load(network, options.data)
    result: dict[str, Any] = {"case": name, "note": case.note, "dtype": "tf32" if "tf32" in rest else "float16"}
    result["load_seconds"] = time.perf_counter() - begin
    if "clip" in rest:
        return {**result, **on_clip(case, (height, width), dtype, options)}
    frames = pictures(int(batch), height, width, dtype)
    dense, model = on_device(case, frames[0]), case.model.cuda().to(dtype)
    tune_seconds = options.tune_seconds if name in HEADLINES else 0.0
    begin = time.perf_counter()
    result["dense"], result["left_out"] = dense_times(dense, frames[0], not options.no_compile, tune_seconds)
    result["dense_seconds"] = time.perf_counter() - begin
    best = min(times["p50"] for times in result["dense"].values())
    begin = time.perf_counter()
    dm = deltafx.convert(model, **case.arguments)
    first = dm(frames[0])
    for number in range(1, WARM_FRAMES):
        dm(frames[number % len(frames)])
    torch.cuda.synchronize()
    result["convert_seconds"] = time.perf_counter() - begin
    result["relative_difference"] = relative_difference(first, dense(frames[0]))
    chosen = {label: share for label, share in SHARES.items() if not options.shares or label in options.shares}
    result["converted"] = {
        label: judged({**milliseconds(call), **work(dm)}, best, dtype)
        for label, call in under_masks(dm, case, frames, chosen)
    }  # fmt: skip
    result["cut"] = cut_frame(dm, frames)
    report = deltafx.report(dm)
    result["state_bytes"], result["nodes"] = report.totals["state_bytes"], len(report.nodes)
    result["output_bytes"] = sum(output_bytes(graph, graph.runtime.plans[0]) for graph in graphs_of(dm))
    result["not_compiled"] = [node.path for node in report.nodes if node.note or node.kernel in ("dense", "eager")]
    counted = {label: share for label, share in chosen.items() if label in COUNTED}
    for label, call in under_masks(dm, case, frames, counted):
        result["converted"][label]["launches"] = launches(call)
    return result


def alone(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """`measured`, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, name, options).result()


def on_clip(case: Case, size: tuple[int, int], dtype: torch.dtype, options: Any) -> dict[str, Any]:
    """Frames of a real clip as a camera gives them, uint8 on the device; each mode beside the dense network."""
    if options.clip is None:
        raise Missing("--clip FILE.npz (python -m benchmarks.gpu_clip)")
    shown = unpack(options.clip)
    if shown.shape[1:3] != size:
        raise Missing(f"{options.clip} has frames of {shown.shape[2]}x{shown.shape[1]}")
    preprocess = case.preprocess or IMAGENET
    frames = [torch.from_numpy(np.ascontiguousarray(x))[None].cuda() for x in shown]
    ready = [preprocess(x).cuda().to(dtype).contiguous(memory_format=torch.channels_last) for x in shown]
    dense, model = on_device(case, ready[0]), case.model.cuda().to(dtype)
    result: dict[str, Any] = {"frames": len(frames), "clip": options.clip.name}
    result["dense"], result["left_out"] = dense_times(dense, ready[0], not options.no_compile, 0.0)
    best = min(times["p50"] for times in result["dense"].values())
    ways = {mode: {"mode": mode} for mode in MODES}
    if options.threshold is not None:
        ways["calibrated"] = {"threshold": str(options.threshold)}
    converted = {}
    for label, how in ways.items():
        with contextlib.suppress(deltafx.ConvertError):  # the calibration is another network's
            converted[label] = deltafx.convert(model, preprocess=preprocess, **how)
    result["converted"] = {
        label: judged(over_clip(dm, dense, frames, ready), best, dtype) for label, dm in converted.items()
    }  # fmt: skip
    for label, dm in converted.items():
        result["state_bytes"] = deltafx.report(dm).totals["state_bytes"]
        last = itertools.cycle(frames[-2:])
        result["converted"][label]["launches"] = launches(lambda dm=dm, last=last: dm(next(last)))
    return result


def over_clip(dm: Any, dense: nn.Module, frames: list[Tensor], ready: list[Tensor]) -> dict[str, Any]:
    """Means of all frames but those before a frame is one graph, and percentiles of the times of warm calls.

    For these the clip is played forth and back, where it has no cut, and is timed from the second time on; what else is
    asked of a frame is asked after that.
    """
    forth_and_back = [*frames, *frames[-2:0:-1]]
    for frame in forth_and_back:
        dm(frame)
    times = [once(functools.partial(dm, frame)) for frame in 2 * forth_and_back]
    figures: dict[str, list[float]] = {name: [] for name in ("macs", "bytes", "update_rate", "relative_error")}
    deltafx.reset(dm)
    for number, (frame, pixels) in enumerate(zip(frames, ready, strict=True)):
        got = dm(frame)
        if number < WARM_FRAMES:
            continue
        report = deltafx.report(dm)
        found = {
            "macs": report.totals["macs"], "bytes": least_bytes(dm), "update_rate": report.nodes[0].update_rate,
            "relative_error": relative_difference(got, dense(pixels)),
        }  # fmt: skip
        for name, value in found.items():
            figures[name].append(value)
    means = {name: statistics.fmean(values) for name, values in figures.items()}
    return {
        **summary(times), **means, "share": means["macs"] / report.totals["macs_dense"],
        "gate": str(settings_of(dm).input_gate),
    }  # fmt: skip


def file_of(folder: Path, case: str) -> Path:
    return folder / f"{case.replace(':', '_')}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="CASE")
    parser.add_argument("--shares", nargs="+", choices=SHARES, help="some of the masks; all by default")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--tune-seconds", type=float, default=0.0, help="the most for max-autotune of a headline case")
    parser.add_argument("--compile-ahead", type=float, default=0.0, metavar="SECONDS", help="the most for all cases")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after so many")
    parser.add_argument("--clip", type=Path, help="what benchmarks.gpu_clip wrote")
    parser.add_argument("--threshold", type=Path, help="a calibration, measured on the clip beside the modes")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with NanoDet's ONNX file")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cuda"), help="a folder")
    parser.add_argument("--again", action="store_true", help="also cases that are there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "commit": output_of("git", "describe", "--always", "--dirty"),
        "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:]),
    }  # fmt: skip
    begin = time.perf_counter()
    cases = [case for case in options.cases if options.again or not file_of(options.out, case).exists()]
    if options.compile_ahead and not options.no_compile:
        print(f"compiled ahead in {compile_ahead(cases, options.data, options.compile_ahead):.0f} s", flush=True)
    for case in cases:
        started = time.perf_counter()
        if started - begin > options.seconds:
            print(f"{case}: not begun after {options.seconds:.0f} s", file=sys.stderr)
            continue
        try:
            result = {**facts, **alone(case, options), "seconds": time.perf_counter() - started}
        except Missing as reason:
            print(f"{case}: {reason}", file=sys.stderr)
            continue
        except RuntimeError as error:  # too large for the device, or frames of a size that the network does not take
            print(f"{case}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        file_of(options.out, case).write_text(json.dumps(result, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(table(read(options.out)))
        print(brief(result), flush=True)


if __name__ == "__main__":
    main()
