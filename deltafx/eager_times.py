"""The time of the modules that run as they are, outside of the delta graphs, where profiling is on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deltafx.profile import KEPT_FRAMES

Span = float | tuple[Any, Any]  # seconds, or the events of a GPU before and behind, which are read later


class EagerTimes:
    """Seconds by module path, of the last frame and since the last reset.

    Only modules without children are timed: the time of another one is that of its children too, which may be graphs.
    """

    def __init__(self) -> None:
        self.last: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.frames = 0
        self.running: list[tuple[str, Span]] = []  # in the running frame
        self.pending: list[list[tuple[str, Span]]] = []  # of frames that ended, not read yet

    def forget(self) -> None:
        """The means begin with the next frame."""
        self.settle()
        self.sums.clear()
        self.frames = 0

    def begin(self) -> None:
        self.running = []

    def end(self) -> None:
        self.frames += 1
        self.pending.append(self.running)
        if len(self.pending) >= KEPT_FRAMES:
            self.settle()

    def run(self, path: str, module: nn.Module, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if next(module.children(), None) is not None:
            return forward(*args, **kwargs)
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        device = next((x.device for x in given if x.is_cuda), None)
        if device is None:  # where calls return when they are done
            start = time.perf_counter()
            result = forward(*args, **kwargs)
            self.running.append((path, time.perf_counter() - start))
            return result
        before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record(torch.cuda.current_stream(device))
        result = forward(*args, **kwargs)
        behind.record(torch.cuda.current_stream(device))
        self.running.append((path, (before, behind)))
        return result

    def settle(self) -> None:
        """Reads what was noted; waits for a GPU."""
        pending, self.pending = self.pending, []
        for frame in pending:
            self.last = Counter()
            for path, span in frame:
                self.last[path] += seconds(span)  # type: ignore[assignment]
            self.sums.update(self.last)

    def of(self, path: str) -> tuple[float | None, float | None]:
        """Milliseconds of the last frame, and their mean; None where they are not known."""
        self.settle()
        last = 1000 * self.last[path] if path in self.last else None
        return last, 1000 * self.sums[path] / self.frames if path in self.sums and self.frames else None


def seconds(span: Span) -> float:
    if not isinstance(span, tuple):
        return span
    before, behind = span
    behind.synchronize()
    return before.elapsed_time(behind) / 1000
