"""The arguments of a converted graph, and how those of a call are given to its placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from deltafx.errors import FrameError


@dataclass(frozen=True)
class Signature:
    """Name, default and rank of each placeholder. A rank is None where no layer that reads the input fixes it."""

    names: tuple[str, ...]
    defaults: dict[str, Any]
    ranks: tuple[int | None, ...]

    @classmethod
    def of(cls, graph: fx.Graph) -> Signature:
        placeholders = list(graph.find_nodes(op="placeholder"))
        defaults = {str(node.target): node.args[0] for node in placeholders if node.args}
        names = tuple(str(node.target) for node in placeholders)
        return cls(names, defaults, tuple(node.meta.get("rank") for node in placeholders))

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """One value for each placeholder, from the arguments of a call."""
        names = self.names
        if not kwargs and len(args) == len(names):
            return list(args)
        unknown = [name for name in kwargs if name not in names]
        if unknown:
            raise FrameError(f"forward() has no argument {unknown[0]!r}; its arguments are {', '.join(names)}.")
        if len(args) > len(names):
            raise FrameError(f"forward() takes {len(names)} arguments ({', '.join(names)}); got {len(args)}.")
        values = dict(zip(names, args, strict=False))
        twice = [name for name in kwargs if name in values]
        if twice:
            raise FrameError(f"forward() got two values for argument {twice[0]!r}.")
        values = {**self.defaults, **values, **kwargs}
        missing = [name for name in names if name not in values]
        if missing:
            raise FrameError(f"forward() needs a value for argument {missing[0]!r}.")
        return [values[name] for name in names]

    def others(self, inputs: Sequence[Any]) -> list[tuple[str, int, str]]:
        """The inputs that layers read as tensors, and that are none: name, the rank of those, what is given."""
        each = zip(self.names, self.ranks, inputs, strict=True)
        return [(name, rank, type(x).__name__) for name, rank, x in each if rank and not isinstance(x, Tensor)]

    def images(self, inputs: Sequence[Any]) -> list[tuple[str, int, Tensor]]:
        """The inputs whose rank is fixed by the layers that read them: name, that rank, and what is given."""
        each = zip(self.names, self.ranks, inputs, strict=True)
        return [(name, rank, x) for name, rank, x in each if rank is not None and isinstance(x, Tensor)]
