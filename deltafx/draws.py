"""Noticing random numbers that a thread draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Draws(TorchDispatchMode):
    """Within it, `any` becomes true with the first operator that draws one, unless `ignored` says otherwise then."""

    def __init__(self, ignored: Callable[[], bool]):
        super().__init__()
        self.any, self.ignored = False, ignored

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and not self.ignored():
            self.any = True
        return func(*args, **(kwargs or {}))
