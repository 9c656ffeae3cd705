"""Operators that order the elements along a dimension, or find one of them and its place.

Dense spellings: max, min, median, mode, kthvalue, topk, sort, argsort, cummax, cummin: of a dimension, of everything,
or (max and min) of two tensors. Mask rule: the dimension that is read whole becomes part of the pixel. Where there are
two results, values and indices, both have the same candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deltafx.ops.base import (
    FRAME,
    Call,
    CallOfTwo,
    FunctionOp,
    Masks,
    Sample,
    broadcasts_streams,
    of_rank,
    spread,
    union,
)

PLACE_OF_DIM = {"kthvalue": 2, "topk": 2, "msort": 9}  # among the arguments; 1 elsewhere
OF_EVERYTHING = ("max", "min", "median", "nanmedian")  # where no dimension is given


class Order(FunctionOp):
    """A function along one dimension that gives one tensor, or two: values and indices."""

    name = "order"
    locality = "global"
    functions: ClassVar[tuple[Callable, ...]] = (
        torch.max, torch.min, torch.median, torch.nanmedian, torch.mode, torch.kthvalue, torch.topk, torch.sort,
        torch.argsort, torch.msort, torch.cummax, torch.cummin,
    )  # fmt: skip
    methods = (
        "max", "min", "median", "nanmedian", "mode", "kthvalue", "topk", "sort", "argsort", "msort", "cummax", "cummin",
    )  # fmt: skip

    def __init__(self, function: Callable, *template: Any):
        super().__init__(function, *template)
        self.name = function.__name__

    @staticmethod
    def samples() -> list[Sample]:
        functions = {
            "max": lambda x: torch.max(x, 1),
            "max_kept": lambda x: x.max(dim=-1, keepdim=True),
            "min": lambda x: torch.min(x, axis=2)[1],  # type: ignore[call-overload]
            "max_of_all": lambda x: torch.max(x) - x.min(),
            "median": lambda x: torch.median(x, 1)[0] + x.nanmedian(1)[0],
            "mode": lambda x: torch.mode(x, 1, True)[0] + x.mode(1, keepdim=True)[0],
            "kthvalue": lambda x: torch.kthvalue(x, 3, 1),
            "topk": lambda x: torch.topk(x, 3, 1),
            "topk_last": lambda x: x.topk(2)[0],
            "sort": lambda x: torch.sort(x, 1, descending=True),
            "sort_rows": lambda x: x.sort(dim=2, stable=True)[1],
            "argsort": lambda x: torch.argsort(x, dim=1) + x.argsort(dim=1, stable=True),
            "msort": lambda x: torch.msort(x.transpose(0, 1)),
            "cummax": lambda x: torch.cummax(x, 1)[0] + x.cummin(dim=1).values,
        }
        two = Sample("of_two", CallOfTwo(lambda x, y: torch.max(x, y) + x.min(other=y)), (FRAME, FRAME))
        return [*(Sample(name, Call(function)) for name, function in functions.items()), two]

    def other(self, inputs: Sequence[Any]) -> Tensor | None:
        """The second of two tensors."""
        other = self.argument(inputs, 1, "other")
        return other if isinstance(other, Tensor) else None

    def dim(self, inputs: Sequence[Any]) -> int | None:
        """The dimension that is read whole; None if everything is."""
        default = None if self.name in OF_EVERYTHING else 0 if self.name == "msort" else -1
        dim = self.argument(inputs, PLACE_OF_DIM.get(self.name, 1), "dim", "axis", default=default)
        return dim if dim is None else dim % inputs[0].dim()

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Any) -> Any:
        if self.other(inputs) is not None:
            return of_rank(union(masks), output.dim())
        assert masks[0] is not None
        dim = self.dim(inputs)
        if dim is None:
            return masks[0].amax()
        kept = spread(masks[0], (dim,))

        def rule(result: Tensor) -> Tensor:
            return kept if result.dim() == kept.dim() else kept.squeeze(dim)

        return pytree.tree_map_only(Tensor, rule, output)

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        other = self.other(inputs)
        return broadcasts_streams([inputs[0], other]) if other is not None else self.dim(inputs) in (None, 0)
