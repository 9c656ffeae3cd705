"""What it costs to know the time of every node: one network with profiling off, on, and without the question.

On a CPU it is processor time of one thread, so that other processes do not count; on a GPU the time of whole calls, by
events, of two converted networks, because the question is asked when their frames are captured.

Run as `python -m benchmarks.profile`; see README.md.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
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


def dense(name: str, height: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    pictures = torch.cat(list(clip(6, height // 4, width // 4, streams=1)))
    return scale_weights(models.get_model(name, weights=None), pictures)


def pictures(height: int, width: int) -> list[Tensor]:
    """They differ in every pixel."""
    (scene,) = clip(1, height, width, streams=1)
    return [scene + 0.05 * torch.randn(scene.shape) for _ in range(4)]


CASES = {"nothing changed": 0.0, "5 % in blobs": 0.05}


def row(name: str, case: str, dm: Any, spent: dict[str, list[float]]) -> dict[str, Any]:
    base, off, on = (statistics.median(spent[side]) if side in spent else None for side in SIDES)
    costs = (None if base is None else 100 * (off / base - 1), 100 * (on / off - 1))
    return {
        "network": name, "case": case, "nodes": len(deltafx.report(dm).nodes), "frames": len(spent["on"]),
        **{side: asdict(Times.of(spent[side])) for side in SIDES if side in spent},
        **{name: cost for name, cost in zip(COSTS, costs, strict=True) if cost is not None},
    }  # fmt: skip


def measure(name: str, height: int, width: int, batch: int, seconds: float) -> Iterator[dict[str, Any]]:
    frames = pictures(height, width)
    dm = deltafx.convert(dense(name, height, width))
    dm(frames[0])
    (plan,) = dm.runtime.plans
    for case, share in CASES.items():
        shown = frames if share else frames[:1]
        with force_masks(dm, blobs(height, width, share, size=48)) if share else nullcontext():
            for _ in range(4):
                dm(shown[0])
            spent = in_turn(SIDES, shown, seconds, partial(on_thread, dm, plan))
        yield row(name, case, dm, spent)


def measure_on_gpu(name: str, height: int, width: int, batch: int, seconds: float) -> Iterator[dict[str, Any]]:
    model = dense(name, height, width).cuda().half()
    frames = [x.repeat(batch, 1, 1, 1).cuda().half() for x in pictures(height, width)]
    dms = {side: deltafx.convert(model, options={"profile": side == "on"}) for side in ("off", "on")}
    for case, share in CASES.items():
        shown = frames if share else frames[:1]
        with contextlib.ExitStack() as held:
            for dm in dms.values():
                if share:
                    held.enter_context(force_masks(dm, blobs(height, width, share, size=48).cuda()))
                for _ in range(6):
                    dm(shown[0])
            spent = in_turn(list(dms), shown, seconds, lambda name, frame: on_device(dms[name], frame))
            nodes = deltafx.report(dms["on"]).totals["milliseconds"]
        yield {**row(f"{name}, batch {batch}", case, dms["on"], spent), "in nodes, ms": nodes}


def in_turn(
    names: Sequence[str], shown: list[Tensor], seconds: float, timed: Callable[[str, Tensor], float]
) -> dict[str, list[float]]:
    """What `timed` says of each side and frame, by side; which of them begins is drawn anew in each round."""
    spent: dict[str, list[float]] = {name: [] for name in names}
    order, draw, until = list(names), random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < until or len(spent["on"]) < 40:
        draw.shuffle(order)
        frame = shown[len(spent["on"]) % len(shown)]
        for name in order:
            spent[name].append(timed(name, frame))
    return spent


def on_device(dm: Any, frame: Tensor) -> float:
    """Seconds from before a call to the end of what it launched."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    dm(frame)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def on_thread(dm: Any, plan: Plan, name: str, frame: Tensor) -> float:
    """Seconds of this thread's processor, with the plan of the side with this name."""
    with side(plan, name):
        started = time.thread_time()
        dm(frame)
        return time.thread_time() - started


def main(
    networks: Annotated[str, typer.Option(help="names of torchvision, with commas between")] = "mobilenet_v2,resnet50",
    height: int = 288,
    width: int = 384,
    seconds: Annotated[float, typer.Option(help="how long a case takes at least")] = 20.0,
    gpu: Annotated[bool, typer.Option("--gpu", help="in float16 on the GPU, not on the CPU")] = False,
    batches: Annotated[str, typer.Option(help="on a GPU, numbers of streams")] = "1,8",
    out: Annotated[Path, typer.Option(help="JSON; a table with the suffix .md is written beside it")] = Path(
        "benchmarks/results/profile.json"
    ),
) -> None:
    """Measure what profiling costs."""
    torch.set_num_threads(1)  # its processor time is the frame's
    results = []
    with torch.inference_mode():
        for name in networks.split(","):
            for batch in map(int, batches.split(",") if gpu else ("1",)):
                for found in (measure_on_gpu if gpu else measure)(name, height, width, batch, seconds):
                    results.append(found)
                    print("; ".join(f"{key} {cell(value)}" for key, value in found.items()), flush=True)
    facts = {**surroundings(), "frame": f"{width}x{height}", "dtype": "torch.float16" if gpu else "torch.float32"}
    if gpu:
        facts["device"] = torch.cuda.get_device_name()
    write(facts, results, out)


def write(facts: dict[str, Any], results: list[dict[str, Any]], out: Path) -> None:
    """JSON, and a table beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")
    head = list(results[0])
    lines = [
        *(f"* {key}: {value}" for key, value in facts.items()), "",
        f"| {' | '.join(f'{key}, ms' if key in SIDES else key for key in head)} |", "|---" * len(head) + "|",
        *(f"| {' | '.join(cell(found[key]) for key in head)} |" for found in results),
    ]  # fmt: skip
    out.with_suffix(".md").write_text("\n".join([*lines, ""]))


def cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.3f}"
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)
