"""The time of the modules that run as they are, outside of the delta graphs, where profiling is on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn


class EagerTimes:
    """Seconds by module path, of the last frame and since the last reset; on a host, where calls return when done.

    Only modules without children are timed: the time of another one is that of its children too, which may be graphs.
    """

    def __init__(self) -> None:
        self.last: Counter[str] = Counter()
        self.forget()

    def forget(self) -> None:
        """The means begin with the next frame."""
        self.sums: Counter[str] = Counter()
        self.frames = 0

    def begin(self) -> None:
        self.last.clear()

    def end(self) -> None:
        self.frames += 1
        self.sums.update(self.last)

    def run(self, path: str, module: nn.Module, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if next(module.children(), None) is not None:
            return forward(*args, **kwargs)
        start = time.perf_counter()
        result = forward(*args, **kwargs)
        self.last[path] += time.perf_counter() - start  # type: ignore[assignment]
        return result

    def of(self, path: str) -> tuple[float | None, float | None]:
        """Milliseconds of the last frame, and their mean; None where they are not known."""
        last = 1000 * self.last[path] if path in self.last else None
        return last, 1000 * self.sums[path] / self.frames if path in self.sums and self.frames else None
