"""Whether errors grow: a looped noisy clip, 20,000 frames, through a network of six layers, in every dtype and payload.

Run as `python -m benchmarks.drift`; see README.md. A shorter run is a test (tests/test_drift.py).
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
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

LOOP, EARLY = 25, 500  # frames of the clip; frames after which the error is looked at first
STREET_LOOP, NANODET_FRAMES = 100, 1000
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
    dtype: torch.dtype, payload: str, settings: dict[str, Any], frames: int, size: int = 96, first: int = EARLY
) -> dict[str, float]:
    """The largest relative error of a loop, against the dense network in the same dtype: early and at the end."""
    model, shown = network().to(dtype), [frame.to(dtype) for frame in clip(size)]
    with torch.no_grad():
        wanted = [model(frame) for frame in shown]
    dm = deltafx.convert(model, payload=payload, **settings)
    silence(dm)
    early = late = 0.0
    for number in range(frames):
        got = dm(shown[number % LOOP])
        if first - LOOP <= number < first:
            early = max(early, relative_error([got], [wanted[number % LOOP]]))
        if number >= frames - LOOP:
            late = max(late, relative_error([got], [wanted[number % LOOP]]))
    return {"early": early, "late": late}


def run_nanodet(folder: Path, frames: int) -> dict[str, float]:
    """The same for NanoDet in mode "balanced", over the first frames of a street clip, again and again."""
    network = nanodet.load(folder)
    shown = list(read_frames(folder / "vtest.avi", STREET_LOOP))
    dm = deltafx.convert(network.model, mode="balanced", preprocess=network.preprocess)
    silence(dm)
    early = late = 0.0
    for number in range(frames):
        frame = shown[number % STREET_LOOP]
        got = dm(frame)
        if EARLY - LOOP <= number < EARLY or number >= frames - LOOP:
            with torch.no_grad():
                error = relative_error(list(got), list(network.model(network.preprocess(frame))))
            early, late = (early, max(late, error)) if number >= EARLY else (max(early, error), late)
    return {"early": early, "late": late}


def main(
    data: Annotated[
        Path | None,
        typer.Option(help="a folder with vtest.avi and nanodet_g_576x768.onnx: NanoDet alone, 1,000 frames"),
    ] = None,
    frames: Annotated[int, typer.Option(help="of each run")] = 20_000,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/drift.json"
    ),
) -> None:
    """Run every combination."""
    if data is not None:
        found = {**surroundings(), "frames": NANODET_FRAMES, "results": run_nanodet(data, NANODET_FRAMES)}
        out.with_name("drift_nanodet.json").write_text(json.dumps(found, indent=1) + "\n")
        typer.echo(found["results"], err=True)
        return
    rows: list[dict[str, Any]] = []
    for dtype, (payload, settings) in itertools.product(DTYPES, SETTINGS.items()):
        found = run(dtype, payload, settings, frames)
        rows.append({"dtype": str(dtype).removeprefix("torch."), "payload": payload, **found})
        typer.echo(rows[-1], err=True)
        facts = surroundings()
        out.write_text(json.dumps({**facts, "frames": frames, "results": rows}, indent=1) + "\n")
        lines = [f"* {key}: {value}" for key, value in {**facts, "frames": frames}.items()]
        head = ["dtype", "payload", f"error up to frame {EARLY}", "at the end"]
        lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in rows:
            cells = [row["dtype"], row["payload"], f"{row['early']:.2e}", f"{row['late']:.2e}"]
            lines.append(f"| {' | '.join(cells)} |")
        out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
