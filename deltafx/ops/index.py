"""Operators that pick or repeat elements by constant numbers.

Dense spellings: `torch.index_select`; repeat, tile and repeat_interleave with numbers. Mask rule: the mask is picked or
repeated as the tensor is; what is one value along a channel dimension stays so. (`x[:, [2, 0, 1]]` is GetItem's.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltafx.ops.base import Call, FunctionOp, Masks, Sample, everything, moves_streams, of_rank, seeded


class IndexSelect(FunctionOp):
    """The slices at some places of one dimension."""

    name = "index_select"
    locality = "resample"
    functions: ClassVar[tuple[Callable, ...]] = (torch.index_select,)
    methods = ("index_select",)

    @staticmethod
    def signature(input, dim, index): ...

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        order = torch.tensor([4, 0, 0, 2])
        functions = {
            "channels": lambda x: torch.index_select(x, 1, order),
            "rows": lambda x: x.index_select(-2, order),
            "keyword": lambda x: x.index_select(dim=3, index=order),
            "computed": lambda x: torch.index_select(x, 2, x.abs().mean((0, 1, 3)).argsort()),
        }
        return [Sample(name, Call(function)) for name, function in functions.items()]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        call, changed = self.arguments(inputs), self.arguments(masks)
        mask = changed["input"]
        if changed["index"] is not None or mask is None:
            return everything(masks, inputs, output)
        return mask if mask.shape[call["dim"]] == 1 else mask.index_select(call["dim"], call["index"])

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        call = self.arguments(inputs)
        return call["dim"] % call["input"].dim() == 0 or call["index"].shape[:1] == call["input"].shape[:1]

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return bool(self.arguments(deltas)["input"]) and not self.arguments(deltas)["index"]


class Repeat(FunctionOp):
    """The tensor several times along some dimensions, as a whole or element by element."""

    name = "repeat"
    locality = "resample"
    functions: ClassVar[tuple[Callable, ...]] = (torch.tile, torch.repeat_interleave)
    methods = ("repeat", "tile", "repeat_interleave")

    def __init__(self, function: Callable, *template: Any):
        super().__init__(function, *template)
        self.name = function.__name__

    @staticmethod
    def samples() -> list[Sample]:
        functions = {
            "repeat": lambda x: x.repeat(1, 2, 1, 3),
            "repeat_vector": lambda x: x.mean((2, 3), keepdim=True).repeat((1, 1, 11, 13)),
            "repeat_in_front": lambda x: x.repeat(3, 1, 1, 1, 1),
            "tile": lambda x: torch.tile(x, (2, 1)) + x.tile((2, 1)),
            "interleave": lambda x: torch.repeat_interleave(x, 2, dim=2),
            "interleave_channels": lambda x: x.repeat_interleave(3, 1),
            "interleave_streams": lambda x: x.repeat_interleave(2, dim=0),
        }
        return [Sample(name, Call(function)) for name, function in functions.items()]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        mask = masks[0]
        assert mask is not None
        repeated = self(mask, *inputs[1:])
        for d, size in enumerate(of_rank(mask, repeated.dim()).shape):
            if size == 1:
                repeated = repeated.narrow(d, 0, 1)  # the same value several times
        return repeated

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        if self.name != "repeat_interleave":
            return None
        if not isinstance(self.argument(inputs, 1, "repeats"), int):
            return "it repeats each element another number of times"
        return "it repeats the flattened tensor" if self.argument(inputs, 2, "dim") is None else None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return moves_streams(self, inputs)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True
