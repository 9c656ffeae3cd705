"""What it costs to know the time of every node: one network with profiling off, on, and without the question.

Processor time of one thread, so that other processes do not count.

Run as `python -m benchmarks.profile`; see README.md.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import MethodType
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torchvision import models

import deltafx
from benchmarks.measure import Times, surroundings
from deltafx.plan import Plan
from deltafx.profile import HostTimer
from deltafx.testing import blobs, clip, force_masks, scale_weights

COSTS = ("off costs %", "on costs %")
SIDES = ("without the question", "off", "on")


def bare(self: Plan, state: Any, kernel: Callable, *args: Any) -> Any:
    return kernel(*args)


@contextlib.contextmanager
def side(plan: Plan, name: str) -> Iterator[None]:
    """Within it, frames of this plan are of the side with this name: the same buffers, the same code else."""
    if name == "on":
        plan.timer = HostTimer()
    elif name == "without the question":
        plan.run = MethodType(bare, plan)  # type: ignore[method-assign]
    yield
    plan.timer = None
    vars(plan).pop("run", None)


def measure(name: str, height: int, width: int, seconds: float) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    (scene,) = clip(1, height, width, streams=1)
    frames = [scene + 0.05 * torch.randn(scene.shape) for _ in range(4)]  # they differ in every pixel
    pictures = torch.cat(list(clip(6, height // 4, width // 4, streams=1)))
    dm = deltafx.convert(scale_weights(models.get_model(name, weights=None), pictures))
    dm(frames[0])
    (plan,) = dm.runtime.plans
    for case, shown in (("nothing changed", frames[:1]), ("5 % in blobs", frames)):
        held = force_masks(dm, blobs(height, width, 0.05, size=48)) if case != "nothing changed" else nullcontext()
        with held:
            for _ in range(4):
                dm(shown[0])
            spent = in_turn(dm, plan, shown, seconds)
        base, off, on = (statistics.median(spent[side]) for side in SIDES)
        yield {
            "network": name, "case": case, "nodes": len(deltafx.report(dm).nodes), "frames": len(spent["on"]),
            **{side: asdict(Times.of(spent[side])) for side in SIDES},
            **dict(zip(COSTS, (100 * (off / base - 1), 100 * (on / off - 1)))),
        }  # fmt: skip


def in_turn(dm: Any, plan: Plan, shown: list[Tensor], seconds: float) -> dict[str, list[float]]:
    """Seconds of this thread's processor, by side; which of them begins is drawn anew in each round."""
    spent: dict[str, list[float]] = {name: [] for name in SIDES}
    order, draw, until = list(SIDES), random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < until or len(spent["on"]) < 40:
        draw.shuffle(order)
        frame = shown[len(spent["on"]) % len(shown)]
        for name in order:
            with side(plan, name):
                started = time.thread_time()
                dm(frame)
                spent[name].append(time.thread_time() - started)
    return spent


def main(
    networks: Annotated[str, typer.Option(help="names of torchvision, with commas between")] = "mobilenet_v2,resnet50",
    height: int = 288,
    width: int = 384,
    seconds: Annotated[float, typer.Option(help="how long a case takes at least")] = 20.0,
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/profile.json"
    ),
) -> None:
    """Measure what profiling costs on the CPU."""
    torch.set_num_threads(1)  # its processor time is the frame's
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
