"""Layers that run together on the CPU without storing what is between them, beside the same layers that store it.

    python -m benchmarks.separable --networks mobilenet_v2 --threads 1

One network converted several times, in turn in one run: every map stored; what depthwise convolutions give to a 1x1
convolution not stored; and expanded maps of so many megabytes and more not stored either. Times are of the processor,
so that another process on the machine disturbs less.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from torch import Tensor

import deltafx
from benchmarks.cpu import dense_network, in_bfloat16, masks, noisy
from benchmarks.measure import Times, surroundings
from deltafx.backends.cpu import program, separable
from deltafx.testing import force

CASES = ("one 32x32 blob", "5% in blobs", "25% in blobs", "everything changed")
NONE = "nothing"
NEVER = 1 << 62


def variants(megabytes: list[float]) -> dict[str, Callable[[], Any]]:
    """What a program is made under, by name."""
    least = {f"expanded maps from {size:g} MB on": int(size * 1e6) for size in megabytes}
    least = {"filtered maps": NEVER, **least}
    return {
        NONE: lambda: mock.patch.object(program, "separables", return_value=()),
        **{name: lambda n=n: mock.patch.object(separable, "LEAST_EXPANDED", n) for name, n in least.items()},
    }


def measure(model: torch.nn.Module, frames: list[Tensor], megabytes: list[float], rounds: int) -> list[dict[str, Any]]:
    """A row for each case and variant."""
    converted = {}
    for name, made_under in variants(megabytes).items():
        with made_under():
            converted[name] = deltafx.convert(model)
            for frame in frames:
                converted[name](frame)
    rows: list[dict[str, Any]] = []
    prescribed = masks(*frames[0].shape[2:])
    for case in CASES:
        mask = prescribed[case]
        forced = None if mask is None else (mask != 0).to(torch.uint8)[None]
        seconds: dict[str, list[float]] = {name: [] for name in converted}
        for number in range(rounds):
            for name, dm in converted.items():
                force(dm, forced)
                dm(frames[2 * number % 4])  # takes over from another case
                start = time.process_time()
                dm(frames[(2 * number + 1) % 4])
                seconds[name].append(time.process_time() - start)
                force(dm, None)
        for name, taken in seconds.items():
            rows.append({"case": case, "not stored": name, **Times.of(taken[1:]).to_dict()})
            print(f"{case}, {name}: {rows[-1]['median']:.2f} ms", flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each network and case, a column for each variant."""
    names = list(dict.fromkeys(row["not stored"] for row in rows))
    lines = [f"| network | case | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 2)}"]
    for network, case in dict.fromkeys((row["network"], row["case"]) for row in rows):
        of_case = [row for row in rows if (row["network"], row["case"]) == (network, case)]
        cells = [f"{row['median']:.2f} ({row['lower']:.2f}..{row['upper']:.2f})" for row in of_case]
        lines.append(f"| {network} | {case} | {' | '.join(cells)} |")
    return lines


def main(
    networks: Annotated[str, typer.Option(help="names of torchvision, with commas between")] = "mobilenet_v2",
    height: int = 576,
    width: int = 768,
    threads: int = 1,
    megabytes: Annotated[str, typer.Option(help="with commas between")] = "6,2,0",
    rounds: int = 20,
    half: Annotated[bool, typer.Option(help="in bfloat16")] = False,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/separable.json"
    ),
) -> None:
    """Measure what storing the maps between layers costs and saves."""
    torch.set_num_threads(threads)
    results: list[dict[str, Any]] = []
    with torch.inference_mode():
        for name in networks.split(","):
            dense = dense_network(name, height, width, Path())
            dense = in_bfloat16(dense) if half else dense
            frames = [frame.bfloat16() if half else frame for frame in noisy(height, width)]
            rows = measure(dense.model, frames, [float(size) for size in megabytes.split(",")], rounds)
            results += [{"network": name, **row} for row in rows]
    dtype = "bfloat16" if half else "float32"
    facts = {**surroundings(), "frame": f"{width}x{height}", "dtype": dtype, "times": "ms of the processor"}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
    lines = [*(f"* {key}: {value}" for key, value in facts.items()), "", *table(results), ""]
    out.with_suffix(".md").write_text("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
