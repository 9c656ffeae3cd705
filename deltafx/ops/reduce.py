"""Operators whose outputs read whole dimensions: reductions, softmax, normalisation.

Dense spellings: mean, sum, amax, amin, norm, var, std, logsumexp, argmax and argmin over dimensions (so global pooling
written as `x.mean([2, 3])`); softmax, log_softmax, softmin, `F.normalize`, cumsum; `nn.LayerNorm`, `nn.GroupNorm`,
`nn.InstanceNorm*d`, `nn.RMSNorm` and their functions.
Mask rule: a dimension that is read whole becomes part of the pixel. Over channels that is the same pixel; over spatial
dimensions one changed pixel can change everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import FunctionOp, Masks, Op, Slot, borrow_module, spread


class Reduction(FunctionOp):
    """A function of whole dimensions that drops them, or keeps them with size 1."""

    name = "reduction"
    locality = "global"
    functions = (
        torch.mean, torch.sum, torch.amax, torch.amin, torch.prod, torch.norm, torch.var, torch.std, torch.logsumexp,
        torch.argmax, torch.argmin, torch.all, torch.any, torch.linalg.vector_norm, torch.nanmean, torch.count_nonzero,
    )  # fmt: skip
    methods = (
        "mean", "sum", "amax", "amin", "prod", "norm", "var", "std", "logsumexp", "argmax", "argmin", "all", "any",
        "nanmean", "count_nonzero",
    )  # fmt: skip

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        super().__init__(function, args, kwargs)
        self.name = function.__name__

    def dims(self, inputs: Sequence[Any]) -> list[int]:
        """The dimensions it reads: found by looking at which a tensor of distinct sizes loses."""
        rank = inputs[0].dim()
        args, kwargs = self.fill(inputs)
        names = ("dim", "axis")
        position = 2 if self.name in ("norm", "vector_norm") else 1
        given = next((kwargs[n] for n in names if n in kwargs), args[position] if len(args) > position else None)
        if given is None or (isinstance(given, (tuple, list)) and not given) or isinstance(given, bool):
            return list(range(rank))
        return [d % rank for d in (given if isinstance(given, (tuple, list)) else (given,))]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        dims = self.dims(inputs)
        keeps = output.dim() == inputs[0].dim()
        return masks[0].amax(dims, keepdim=keeps) if dims else masks[0]

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return 0 in self.dims(inputs)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return self.name in ("mean", "sum")


class Softmax(FunctionOp):
    """A function along one dimension that keeps its size."""

    name = "softmax"
    locality = "pointwise"
    modules = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)
    functions = (torch.softmax, torch.log_softmax, F.softmax, F.log_softmax, F.softmin, torch.cumsum, F.normalize)
    methods = ("softmax", "log_softmax", "cumsum")

    @classmethod
    def from_module(cls, module: nn.Module) -> Softmax:
        function = {nn.LogSoftmax: F.log_softmax, nn.Softmin: F.softmin}.get(type(module), F.softmax)
        return cls(function, (Slot(0),), {"dim": -3 if isinstance(module, nn.Softmax2d) else module.dim})

    def dim(self, inputs: Sequence[Any]) -> int | None:
        args, kwargs = self.fill(inputs)
        if self.function is F.normalize:
            dim = kwargs.get("dim", args[2] if len(args) > 2 else 1)
        else:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        return dim % inputs[0].dim() if isinstance(dim, int) else None

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        dim = self.dim(inputs)
        assert masks[0] is not None and dim is not None
        return spread(masks[0], inputs[0].shape, (dim,))

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        return "its dimension is not given" if self.dim(inputs) is None else None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return self.dim(inputs) == 0

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return "cumsum" in str(self.function)


class LayerNorm(FunctionOp):
    """Normalisation over the last dimensions; weight and bias are inputs or constants."""

    name = "layer_norm"
    locality = "pointwise"
    functions = (F.layer_norm, F.rms_norm)

    @staticmethod
    def signature(input, normalized_shape, weight=None, bias=None, eps=1e-5): ...  # type: ignore[override]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        count = len(self.fill(inputs)[0][1])
        return spread(masks[0], inputs[0].shape, range(-count, 0))

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        return None if len(self.args) > 1 else "its normalized_shape is given by keyword"

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return len(self.fill(inputs)[0][1]) >= inputs[0].dim()


class Norm(Op):
    """A normalisation module: LayerNorm and RMSNorm over the last dimensions, the others over a stream's pixels."""

    name = "norm"
    modules = (
        nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    )  # fmt: skip

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = borrow_module(module)
        self.last = len(module.normalized_shape) if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) else None
        self.locality = "pointwise" if self.last else "global"
        self.name = type(module).__name__.lower()

    @classmethod
    def from_module(cls, module: nn.Module) -> Norm:
        return cls(module)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        dims = range(-self.last, 0) if self.last else range(1, inputs[0].dim())
        whole = spread(masks[0], inputs[0].shape, list(dims))
        if self.last:
            return whole
        return whole.expand([1 if d == 1 else size for d, size in enumerate(output.shape)])

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return self.last is not None and self.last >= inputs[0].dim()
