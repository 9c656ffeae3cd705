"""Batch norm in evaluation mode: a constant scale and shift per channel.

Dense spellings: `nn.BatchNorm1d/2d/3d` and `nn.SyncBatchNorm` with running statistics, `F.batch_norm` with constant
ones. The fold_affine pass moves them into a neighbouring convolution where that is legal; elsewhere they stay
pointwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import Masks, Op, borrow, union


class Affine(Op):
    """`x * scale + shift` with scale and shift `[C]` along dimension 1."""

    name = "affine"
    locality = "pointwise"

    def __init__(self, scale: Tensor, shift: Tensor, dtype: torch.dtype):
        super().__init__()
        self.scale, self.shift = borrow(scale.to(dtype)), borrow(shift.to(dtype))
        self.exact = (scale.double(), shift.double())  # for folding, which rounds only once

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        return union(masks)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True

    def extra_repr(self) -> str:
        return str(self.scale.numel())


class BatchNorm:
    """Builds the Affine operator of a batch norm, or None where it normalises with the batch's own statistics."""

    modules = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    functions = (F.batch_norm,)

    @classmethod
    def from_module(cls, module: nn.Module) -> Affine | None:
        assert isinstance(module, cls.modules)
        return cls.from_weights(module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps)

    @staticmethod
    def from_weights(
        running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
        bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Affine | None:  # fmt: skip
        """The arguments of `F.batch_norm` after its input, all constants."""
        if running_mean is None or running_var is None or training:
            return None
        scale = (running_var.detach().double() + eps).rsqrt()
        if weight is not None:
            scale = scale * weight.detach().double()
        shift = -running_mean.detach().double() * scale
        if bias is not None:
            shift = shift + bias.detach().double()
        return Affine(scale, shift, running_mean.dtype)
