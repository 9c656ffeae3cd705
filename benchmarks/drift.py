"""Whether errors grow: a looped noisy clip, 20,000 frames, through a network of six layers, in every dtype and payload;
NanoDet on a street clip; and whether a slow fade arrives.

Run as `python -m benchmarks.drift`; see README.md. A shorter run is a test (tests/test_drift.py).
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import deltafx
from benchmarks import nanodet
from benchmarks.measure import surroundings
from deltafx.converted import silence
from deltafx.measure import relative_error
from deltafx.testing import scale_weights
from deltafx.video import read_frames

LOOP, WINDOW = 25, 500  # frames of the clip; of the windows whose errors are compared
STREET_LOOP, STREET_STEP, NANODET_FRAMES = 100, 5, 1000  # STREET_STEP: from one frame that is looked at to the next
STREET_WINDOW = 3  # loops: their frames stand alike to the modes' refreshes, every 30th frame
FADE, FADE_FRAMES, FADED = 0.2, 1000, 0.225 * 255  # grey levels a frame; frames; levels to a unit of normalised frames
MODES = ("balanced", "fast")
FADES: dict[str, dict[str, Any]] = {
    "balanced": {"mode": "balanced"},
    "fast": {"mode": "fast"},
    "fast, no refresh": {"mode": "fast", "refresh_every": 10 * FADE_FRAMES},
    "fast, refresh_within=40": {"mode": "fast", "refresh_within": 40},
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
WITHHELD = {"threshold": 0.1, "input_gate": deltafx.InputGate(6)}
# Differences add up their rounding: the paper's form needs a refresh now and then, in half precision soon.
SETTINGS = {"value": WITHHELD, "difference": {**WITHHELD, "refresh_every": 100}}


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (3, 8, 8, 8, 8):
        layers += [nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU()]
    return scale_weights(nn.Sequential(*layers, nn.Conv2d(8, 4, 1)), torch.cat(clip()[:4]))


def clip(size: int = 96) -> list[Tensor]:
    """A square goes round over a textured background, under noise; normalised."""
    generator = torch.Generator().manual_seed(0)
    background = 60 + 120 * torch.rand(1, 3, size, size, generator=generator)
    frames = []
    for index in range(LOOP):
        frame = background + 3 * torch.randn(background.shape, generator=generator)
        place = index * (size - 20) // LOOP
        frame[..., place : place + 16, 20:36] += 50
        frames.append((frame.clamp(0, 255) / 255 - 0.45) / 0.225)
    return frames


def run(
    dtype: torch.dtype, payload: str, settings: dict[str, Any], frames: int, size: int = 96, window: int = WINDOW
) -> list[float]:
    """The largest relative error in each window of a loop, against the dense network in the same dtype."""
    model, shown = network().to(dtype), [frame.to(dtype) for frame in clip(size)]
    with torch.no_grad():
        wanted = [model(frame) for frame in shown]
    dm = deltafx.convert(model, payload=payload, **settings)
    silence(dm)
    errors = []
    for number in range(frames):
        got = dm(shown[number % LOOP])
        errors.append(relative_error([got], [wanted[number % LOOP]]))
    return [max(errors[first : first + window]) for first in range(0, frames, window)]


def run_fade(settings: dict[str, Any], frames: int = FADE_FRAMES, size: int = 96) -> dict[str, float]:
    """A picture without noise that becomes brighter, far below every threshold from frame to frame.

    The largest relative error in the second quarter, and in the last: by then the fade is twice as long. And what it
    would be in the end, had nothing arrived.
    """
    model, start = network(), clip(size)[0]
    dm = deltafx.convert(model, **settings)
    silence(dm)
    errors = []
    for number in range(frames):
        frame = start + number * FADE / FADED
        got = dm(frame)
        with torch.no_grad():
            want = model(frame)
        errors.append(relative_error([got], [want]))
    with torch.no_grad():
        withheld = relative_error([model(start)], [want])
    return {
        "early": max(errors[frames // 4 : frames // 2]),
        "late": max(errors[3 * frames // 4 :]),
        "withheld": withheld,
    }


def run_nanodet(folder: Path, mode: str, frames: int) -> dict[str, Any]:
    """The mean error of each loop, for NanoDet over the first frames of a street clip again and again."""
    network = nanodet.load(folder)
    shown = list(read_frames(folder / "vtest.avi", STREET_LOOP))
    looked_at = range(0, STREET_LOOP, STREET_STEP)
    with torch.no_grad():
        wanted = {number: list(network.model(network.preprocess(shown[number]))) for number in looked_at}
    dm = deltafx.convert(network.model, mode=mode, preprocess=network.preprocess)
    silence(dm)
    loops = []
    for first in range(0, frames, STREET_LOOP):
        errors = []
        for number, frame in enumerate(shown):
            got = dm(frame)
            if number in wanted:
                errors.append(relative_error(list(got), wanted[number]))
        loops.append(fmean(errors))
        typer.echo(f"{mode}, frames {first} to {first + STREET_LOOP - 1}: {loops[-1]:.4f}", err=True)
    return {"loops": loops}


def table(found: dict[str, Any]) -> str:
    lines = []

    def add(title: str, part: str, head: list[str], rows: list[list[Any]]) -> None:
        facts = {key: value for key, value in found[part].items() if key != "results"}
        lines.extend(["", f"## {title}", "", *(f"* {key}: {value}" for key, value in facts.items()), ""])
        lines.extend([f"| {' | '.join(head)} |", "|---" * len(head) + "|"])
        lines.extend(
            f"| {' | '.join(each if isinstance(each, str) else f'{each:.3e}' for each in row)} |" for row in rows
        )

    if "loop" in found:
        rows = []
        for row in found["loop"]["results"]:
            first, *others = row["windows"]
            full = str(SETTINGS[row["payload"]].get("refresh_every", "never"))
            rows.append([row["dtype"], row["payload"], full, first, *spread(others), others[-1]])
        head = ["dtype", "payload", "computed in full every", f"largest error in the first {WINDOW} frames"]
        head += [f"in each {WINDOW} after them: mean", "least", "largest", "in the last"]
        add("A looped noisy clip, six layers, 96x96", "loop", head, rows)
    if "nanodet" in found:
        half = NANODET_FRAMES // STREET_LOOP // 2
        head, rows = ["mode"], [[row["mode"]] for row in found["nanodet"]["results"]]
        for end in (half, 2 * half):
            first = end - STREET_WINDOW
            head += [f"error in frames {first * STREET_LOOP} to {end * STREET_LOOP - 1}: mean of loops"]
            head += ["least", "largest"]
            for row, of in zip(rows, found["nanodet"]["results"]):
                row += spread(of["loops"][first:end])
        add(f"NanoDet, {STREET_LOOP} frames of a street clip again and again", "nanodet", head, rows)
    if "fade" in found:
        head = ["settings", "largest error in the second quarter", "in the last", "had nothing arrived"]
        rows = [[row["settings"], row["early"], row["late"], row["withheld"]] for row in found["fade"]["results"]]
        add(f"A slow fade, {FADE:g} grey levels a frame, six layers, 96x96", "fade", head, rows)
    return "\n".join(lines).lstrip() + "\n"


def spread(errors: list[float]) -> list[float]:
    return [fmean(errors), min(errors), max(errors)]


def main(
    data: Annotated[
        Path | None, typer.Option(help="a folder with vtest.avi and nanodet_g_576x768.onnx, for NanoDet")
    ] = None,
    parts: Annotated[str, typer.Option(help="some of: loop, nanodet, fade; with commas between")] = "loop,nanodet,fade",
    frames: Annotated[int, typer.Option(help="of each run of the loop")] = 20_000,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/drift.json"
    ),
) -> None:
    """Run every combination; parts that are not named are kept."""
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}

    def keep(part: str, count: int, rows: list[dict[str, Any]]) -> None:
        typer.echo(rows[-1], err=True)
        found[part] = {**surroundings(), "frames": count, "results": rows}
        out.write_text(json.dumps(found, indent=1) + "\n")
        out.with_suffix(".md").write_text(table(found))

    rows: list[dict[str, Any]] = []
    for name, settings in FADES.items() if "fade" in parts else ():
        rows.append({"settings": name, **run_fade(settings)})
        keep("fade", FADE_FRAMES, rows)
    rows = []
    for mode in MODES if "nanodet" in parts and data is not None else ():
        rows.append({"mode": mode, **run_nanodet(data, mode, NANODET_FRAMES)})
        keep("nanodet", NANODET_FRAMES, rows)
    rows = []
    for dtype, (payload, settings) in itertools.product(DTYPES, SETTINGS.items()) if "loop" in parts else ():
        name = str(dtype).removeprefix("torch.")
        rows.append({"dtype": name, "payload": payload, "windows": run(dtype, payload, settings, frames)})
        keep("loop", frames, rows)


if __name__ == "__main__":
    typer.run(main)
