"""Fully connected layers: per pixel where the channels are last, per stream in a classifier head.

Dense spellings: `nn.Linear`, `F.linear` with a constant weight. Mask rule: same, with the last dimension as channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import Masks, Op, borrow, spread


class Linear(Op):
    """`x @ weight.T + bias` with weight `[C_out, C_in]`, on the last dimension of x."""

    name = "linear"
    locality = "head"
    modules = (nn.Linear,)
    functions = (F.linear,)
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight = borrow(weight)
        self.register_parameter("bias", None if bias is None else borrow(bias))

    @classmethod
    def from_module(cls, module: nn.Module) -> Linear:
        assert isinstance(module, nn.Linear)
        return cls(module.weight, module.bias)

    @classmethod
    def from_weights(cls, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """The operator of `F.linear(x, weight, bias)` with a constant weight."""
        return cls(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        return spread(masks[0], inputs[0].shape, (-1,))

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return inputs[0].dim() == 1

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"
