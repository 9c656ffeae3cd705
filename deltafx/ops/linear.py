"""Fully connected layers: per pixel where the channels are last, per stream in a classifier head.

Dense spellings: `nn.Linear`, `F.linear` with a constant weight. Mask rule: same, with the last dimension as channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import Call, Masks, Op, Sample, borrow, seeded, spread


class Linear(Op):
    """`x @ weight.T + bias` with weight `[C_out, C_in]`, on the last dimension of x."""

    name = "linear"
    locality = "head"
    module_types = (nn.Linear,)
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

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        channels, width = nn.Linear(7, 5), nn.Linear(13, 3, bias=False)
        weight, bias = torch.randn(5, 7), torch.randn(5)
        return [
            Sample("head", nn.Linear(7, 5), ((2, 7),)),
            Sample("pixels", Call(lambda x: F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2))),
            Sample("tokens", nn.Sequential(nn.Flatten(2), Call(lambda x: x.transpose(1, 2)), channels)),
            Sample("width", nn.Sequential(width)),
        ]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        return spread(masks[0], (-1,))

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return inputs[0].dim() == 1

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"
