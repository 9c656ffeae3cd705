"""What it costs to know the time of every node: the same network with profiling off, on, and without the question.

Run as `python -m benchmarks.profile`; see README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Annotated, Any

import torch
import typer

import deltafx
from benchmarks.cpu import network, noisy
from benchmarks.measure import interleaved, surroundings
from deltafx.plan import Plan
from deltafx.testing import blobs, force_masks

COSTS = ("off costs %", "on costs %")
SIDES = ("without the question", "off", "on")


def bare(self: Plan, state: Any, kernel: Callable, *args: Any) -> Any:
    return kernel(*args)


def measure(name: str, height: int, width: int, seconds: float) -> Iterator[dict[str, Any]]:
    model = network(name, height, width, torch.float32)
    frames = noisy(height, width, torch.float32)
    converted = [deltafx.convert(model, options={"profile": side == "on"}) for side in SIDES]
    mask = blobs(height, width, 0.05, size=48)

    for dm in converted:
        dm(frames[0])
    for plan in converted[0].runtime.plans:
        plan.run = MethodType(bare, plan)  # type: ignore[method-assign]

    for case, shown in (("nothing changed", frames[:1]), ("5 % in blobs", frames)):
        masks = [force_masks(dm, mask) for dm in converted] if case != "nothing changed" else []
        for each in masks:
            each.__enter__()
        for dm in converted:
            dm(shown[0])
        times = interleaved(
            [lambda i, dm=dm, shown=shown: dm(shown[i % len(shown)]) for dm in converted], seconds, least=40
        )
        for each in masks:
            each.__exit__(None, None, None)
        base, off, on = (each.median for each in times)
        yield {
            "network": name, "case": case, "nodes": len(deltafx.report(converted[0]).nodes),
            **{side: {"median": t.median, "lower": t.lower, "upper": t.upper} for side, t in zip(SIDES, times)},
            **dict(zip(COSTS, (100 * (off / base - 1), 100 * (on / off - 1)))), "frames": times[0].runs,
        }  # fmt: skip


def main(
    networks: Annotated[str, typer.Option(help="names of torchvision, with commas between")] = "mobilenet_v2,resnet50",
    height: int = 288,
    width: int = 384,
    threads: int = 1,
    seconds: Annotated[float, typer.Option(help="how long a case takes at least")] = 20.0,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/profile.json"
    ),
) -> None:
    """Measure what profiling costs on the CPU."""
    torch.set_num_threads(threads)
    results = []
    with torch.inference_mode():
        for name in networks.split(","):
            for row in measure(name, height, width, seconds):
                results.append(row)
                print(
                    f"{name}, {row['case']}: off {row['off costs %']:+.2f} %, on {row['on costs %']:+.2f} %", flush=True
                )
    facts = {**surroundings(), "frame": f"{width}x{height}", "dtype": "torch.float32"}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
    head = ("network", "case", "nodes", *(f"{side}, ms" for side in SIDES), *COSTS)
    lines = [
        *(f"* {key}: {value}" for key, value in facts.items()),
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for row in results:
        cells = [
            row["network"], row["case"], str(row["nodes"]), *(f"{row[side]['median']:.3f}" for side in SIDES),
            *(f"{row[key]:+.2f} %" for key in COSTS),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    out.with_suffix(".md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    typer.run(main)
