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

from deltafx.ops.base import Call, Masks, Op, Sample, borrow, seeded, union


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

    module_types = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    functions = (F.batch_norm,)

    @classmethod
    def from_module(cls, module: nn.Module) -> Affine | None:
        assert isinstance(module, cls.module_types)
        return cls.from_weights(module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps)

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        def trained(module: nn.Module) -> nn.Module:
            for name, tensor in module.state_dict().items():
                if tensor.dim():
                    nn.init.uniform_(tensor, 0.5 if "var" in name else -1.0, 2.0)
            return module

        mean, var, weight = torch.randn(7), torch.rand(7) + 0.5, torch.randn(7)
        return [
            Sample("2d", trained(nn.BatchNorm2d(7))),
            Sample("not_affine", trained(nn.BatchNorm2d(7, affine=False, eps=0.1))),
            Sample("vector", trained(nn.BatchNorm1d(7)), ((2, 7),)),
            Sample("1d", trained(nn.BatchNorm1d(7)), ((2, 7, 13),)),
            Sample("3d", trained(nn.BatchNorm3d(3)), ((2, 3, 4, 7, 5),)),
            Sample("sync", trained(nn.SyncBatchNorm(7))),
            Sample("function", Call(lambda x: F.batch_norm(x, mean, var, weight, eps=1e-3))),
        ]

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
