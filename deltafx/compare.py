"""The converted model beside the dense one, frame by frame."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from deltafx.converted import Converted, check_converted, dense_arguments, reset
from deltafx.measure import relative_error, tensors_of
from deltafx.report import report
from deltafx.views.text import number, table

Metric = Callable[[Any, Any], float]  # (delta output, dense output)


@dataclass(frozen=True)
class FrameComparison:
    """One frame: relative L2 error of all outputs, wall-clock milliseconds, multiply-accumulates, metrics."""

    relative_error: float
    ms_dense: float
    ms_delta: float
    macs: int
    macs_dense: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """All frames of a comparison, and in all. The first frame, which is in full, is left out of times and MACs."""

    frames: tuple[FrameComparison, ...]
    total: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        metrics = list(self.frames[0].metrics) if self.frames else []
        head = ("frame", "error", "ms dense", "ms delta", "MACs", *metrics)
        rows = [
            (
                str(index),
                f"{frame.relative_error:.1e}",
                f"{frame.ms_dense:.1f}",
                f"{frame.ms_delta:.1f}",
                f"{frame.macs / frame.macs_dense:.1%}" if frame.macs_dense else "-",
                *(f"{frame.metrics[name]:.4g}" for name in metrics),
            )
            for index, frame in enumerate(self.frames)
        ]
        t = self.total
        saved = f"{t['macs_ratio']:.1f}x fewer MACs" if t["macs_ratio"] is not None else "no MACs to save"
        last = (
            f"{len(self.frames)} frames: {number(t['ms_dense'], '{:.1f}')} ms dense, {number(t['ms_delta'], '{:.1f}')} "
            f"ms delta ({number(t['speed_up'], '{:.2f}')}x), {saved}, relative error {t['relative_error']:.1e}"
        )
        return "\n".join([table(head, rows), "", last])


def compare(
    model: nn.Module,
    dm: Converted,
    frames: Iterable[Any],
    *,
    metric: Metric | Mapping[str, Metric] | None = None,
) -> Comparison:
    """Run both models over `frames` and set them side by side; `dm` starts in full.

    Args:
        frames: what the models are called with: a tensor, or a tuple of arguments, for each frame.
        metric: a callable on (delta output, dense output) that gives a number, or several by name.

    Times are wall-clock, of the models alone, the device waited for; medians are over all frames but the first.
    """
    named: Mapping[str, Metric] = {}
    if metric is not None:
        named = metric if isinstance(metric, Mapping) else {getattr(metric, "__name__", "metric"): metric}
    check_converted(dm, "compare")
    if model.training:
        raise ValueError("compare: the model is in training mode; call model.eval() first.")
    reset(dm)
    rows = []
    for frame in frames:
        args = frame if isinstance(frame, tuple) else (frame,)
        with torch.no_grad():
            # On a copy: a dense model may overwrite its input.
            dense, ms_dense = timed(model, pytree.tree_map_only(torch.Tensor, torch.clone, dense_arguments(dm, args)))
        delta, ms_delta = timed(dm, args)
        totals = report(dm).totals
        rows.append(
            FrameComparison(
                relative_error=relative_error(tensors_of(delta), tensors_of(dense)),
                ms_dense=ms_dense,
                ms_delta=ms_delta,
                macs=totals["macs"],
                macs_dense=totals["macs_dense"],
                metrics={name: float(each(delta, dense)) for name, each in named.items()},
            )
        )
    return Comparison(tuple(rows), summarise(rows, list(named)))


def timed(module: nn.Module, args: tuple) -> tuple[Any, float]:
    devices = {leaf.device for leaf in tensors_of(args) if leaf.is_cuda}
    for device in devices:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = module(*args)
    for device in devices:
        torch.cuda.synchronize(device)
    return result, 1e3 * (time.perf_counter() - start)


def summarise(rows: list[FrameComparison], metrics: list[str]) -> dict[str, Any]:
    """Medians of the times, means of the rest; the largest error."""
    later = rows[1:] or rows
    if not rows:
        raise ValueError("compare got no frames.")
    dense, delta = (statistics.median(getattr(row, name) for row in later) for name in ("ms_dense", "ms_delta"))
    macs, macs_dense = (statistics.fmean(getattr(row, name) for row in later) for name in ("macs", "macs_dense"))
    return {
        "frames": len(rows),
        "relative_error": max(row.relative_error for row in rows),
        "ms_dense": dense,
        "ms_delta": delta,
        "speed_up": dense / delta,
        "macs": macs,
        "macs_dense": macs_dense,
        "macs_ratio": macs_dense / macs if macs else None,
        "metrics": {name: statistics.fmean(row.metrics[name] for row in rows) for name in metrics},
    }
