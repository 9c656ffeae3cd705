"""Operators whose outputs read whole dimensions: reductions, softmax, normalisation.

Dense spellings: mean, sum, amax, amin, norm, var, std, logsumexp, argmax and argmin over dimensions (so global pooling
written as `x.mean([2, 3])`); softmax, log_softmax, softmin, glu, `F.normalize`, cumsum, local response norm;
`nn.LayerNorm`, `nn.GroupNorm`, `nn.InstanceNorm*d`, `nn.RMSNorm` and their functions.
Mask rule: a dimension that is read whole becomes part of the pixel. Over channels that is the same pixel; over spatial
dimensions one changed pixel can change everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import (
    Call,
    FunctionOp,
    Masks,
    Op,
    Sample,
    Slot,
    any_delta,
    borrow_module,
    by_type,
    everything,
    seeded,
    spread,
)  # fmt: skip


class Reduction(FunctionOp):
    """A function of whole dimensions that drops them, or keeps them with size 1."""

    name = "reduction"
    locality = "global"
    functions: ClassVar[tuple[Callable, ...]] = (
        torch.mean, torch.sum, torch.amax, torch.amin, torch.prod, torch.norm, torch.var, torch.std, torch.logsumexp,
        torch.argmax, torch.argmin, torch.all, torch.any, torch.linalg.vector_norm, torch.nanmean, torch.count_nonzero,
    )  # fmt: skip
    methods = (
        "mean", "sum", "amax", "amin", "prod", "norm", "var", "std", "logsumexp", "argmax", "argmin", "all", "any",
        "nanmean", "count_nonzero",
    )  # fmt: skip

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        super().__init__(function, args, kwargs)
        self.name = function.__name__.removeprefix("linalg_")

    @staticmethod
    def samples() -> list[Sample]:
        functions = {
            "global_mean": lambda x: x.mean([2, 3]),
            "global_mean_kept": lambda x: torch.mean(x, dim=(-1, -2), keepdim=True),
            "global_mean_axis": lambda x: x.mean(axis=(2, 3), keepdims=True),
            "row_sum": lambda x: x.sum(3, keepdim=True),
            "token_mean": lambda x: x.flatten(2).transpose(1, 2).mean(1),
            "stream_sum": lambda x: x.sum((1, 2, 3)),
            "whole_mean": lambda x: x.mean() + x.std(False),
            "norm": lambda x: x.norm(2, 1, True) + torch.norm(x, 1, 1, keepdim=True),
            "vector_norm": lambda x: torch.linalg.vector_norm(x, 1, (1,), keepdim=True),
            "var": lambda x: x.var(1, unbiased=False),
            "logsumexp": lambda x: torch.logsumexp(x, (1, 2)),
        }
        over_channels = [Sample(f"torch.{f.__name__}", Call(lambda x, f=f: f(x, dim=1))) for f in Reduction.functions]
        over_channels += [Sample(f"method.{m}", Call(lambda x, m=m: getattr(x, m)(dim=1))) for m in Reduction.methods]
        return [*(Sample(name, Call(function)) for name, function in functions.items()), *over_channels]

    def dims(self, inputs: Sequence[Any]) -> list[int]:
        """The dimensions it reads whole."""
        rank = inputs[0].dim()
        position = 2 if self.name in ("norm", "vector_norm") else 1
        given = self.argument(inputs, position, "dim", "axis")
        if given is None or given == () or given == [] or isinstance(given, bool):  # a bool is var's `unbiased`
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


SOFTMAX_OF: dict[type[nn.Module], Callable] = {
    nn.Softmax: F.softmax, nn.LogSoftmax: F.log_softmax, nn.Softmin: F.softmin, nn.GLU: F.glu,
}  # fmt: skip


class Softmax(FunctionOp):
    """A function along one dimension, which it keeps."""

    name = "softmax"
    locality = "pointwise"
    module_types = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, nn.GLU, nn.LocalResponseNorm)
    functions = (
        torch.softmax, torch.log_softmax, F.softmax, F.log_softmax, F.softmin, F.glu, torch.cumsum, F.normalize,
        F.local_response_norm,
    )  # fmt: skip
    methods = ("softmax", "log_softmax", "cumsum")

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        super().__init__(function, args, kwargs)
        self.name = function.__name__
        self.locality = "resample" if self.name == "glu" else "pointwise"  # glu halves the dimension

    @staticmethod
    def samples() -> list[Sample]:
        functions = {
            "channels": lambda x: torch.softmax(x, 1),
            "tokens": lambda x: F.softmax(x.flatten(2).transpose(1, 2), dim=-1),
            "over_tokens": lambda x: x.flatten(2).softmax(-1),
            "log_softmax": lambda x: F.log_softmax(x, dim=-3) + torch.log_softmax(x, 1) + x.log_softmax(1),
            "softmin": lambda x: F.softmin(x, dim=1),
            "glu": lambda x: F.glu(x[:, :6], 1),
            "glu_last": lambda x: F.glu(x.permute(0, 2, 3, 1)[..., 1:]).permute(0, 3, 1, 2),
            "normalize": lambda x: F.normalize(x),
            "normalize_rows": lambda x: F.normalize(x, 2.0, 3),
            "cumsum": lambda x: x.cumsum(dim=1) + torch.cumsum(x, 1),
            "local_response_norm": lambda x: F.local_response_norm(x, 3),
        }
        modules = [nn.Softmax(1), nn.LogSoftmax(-3), nn.Softmin(1), nn.Softmax2d(), nn.LocalResponseNorm(5, k=2.0)]
        return [
            *(Sample(name, Call(function)) for name, function in functions.items()),
            *(Sample(type(module).__name__, module) for module in modules),
            Sample("GLU", nn.GLU(1), ((2, 6, 11, 13),)),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> Softmax:
        if isinstance(module, nn.LocalResponseNorm):
            return cls(F.local_response_norm, (Slot(0), module.size, module.alpha, module.beta, module.k))
        if isinstance(module, nn.Softmax2d):
            return cls(F.softmax, (Slot(0),), {"dim": -3})
        function = by_type(module, SOFTMAX_OF)
        return cls(function, (Slot(0),), {"dim": module.dim})

    def dim(self, inputs: Sequence[Any]) -> int | None:
        """The dimension along which elements depend on each other; None where PyTorch guesses it."""
        if self.name == "local_response_norm":
            return 1
        position, default = {"normalize": (2, 1), "glu": (1, -1)}.get(self.name, (1, None))
        dim = self.argument(inputs, position, "dim", "axis", default=default)
        return dim % inputs[0].dim() if isinstance(dim, int) else None

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        dim = self.dim(inputs)
        assert masks[0] is not None
        assert dim is not None
        return spread(masks[0], (dim,))

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        return "its dimension is not given" if self.dim(inputs) is None else None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return self.dim(inputs) == 0

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return self.name == "cumsum"


class LayerNorm(FunctionOp):
    """A normalisation function: over the last dimensions, or in groups of channels over a stream's pixels."""

    name = "layer_norm"
    locality = "pointwise"
    functions = (F.layer_norm, F.rms_norm, F.group_norm)

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        super().__init__(function, args, kwargs)
        self.name = function.__name__
        self.locality = "global" if self.name == "group_norm" else "pointwise"

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        weight, bias = torch.randn(7), torch.randn(7)
        functions = {
            "layer_norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (7,), weight, bias).permute(0, 3, 1, 2),
            "layer_norm_keyword": lambda x: F.layer_norm(x, normalized_shape=x.shape[2:]),
            "weight_of_frame": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (7,), weight=x.mean((0, 2, 3))),
            "rms_norm": lambda x: F.rms_norm(x.permute(0, 2, 3, 1), [7], weight),
            "group_norm": lambda x: F.group_norm(x, 7, weight, bias),
        }
        return [Sample(name, Call(function)) for name, function in functions.items()]

    def dims(self, inputs: Sequence[Any]) -> tuple[int, ...] | None:
        if self.name == "group_norm":
            return None
        return tuple(range(-len(self.argument(inputs, 1, "normalized_shape")), 0))

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        if masks[0] is None or any_delta(masks[1:]):
            return everything(masks, inputs, output)  # a weight or bias was computed from the frame
        return normalised(masks[0], self.dims(inputs), output)

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return len(self.dims(inputs) or ()) >= inputs[0].dim()


class Norm(Op):
    """A normalisation module: LayerNorm and RMSNorm over the last dimensions, the others over a stream's pixels."""

    name = "norm"
    module_types = (
        nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    )  # fmt: skip

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = borrow_module(module)
        self.dims: tuple[int, ...] | None = None
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            self.dims = tuple(range(-len(module.normalized_shape), 0))
        elif getattr(module, "track_running_stats", False):
            self.dims = ()  # statistics are constants
        self.locality = "global" if self.dims is None else "pointwise"
        self.name = type(module).__name__.lower()

    @classmethod
    def from_module(cls, module: nn.Module) -> Norm:
        return cls(module)

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        last = Call(lambda x: x.permute(0, 2, 3, 1))
        return [
            Sample("layer_norm", nn.Sequential(last, nn.LayerNorm(7), Call(lambda x: x.permute(0, 3, 1, 2)))),
            Sample("layer_norm_pixels", nn.LayerNorm((11, 13))),
            Sample("tokens", nn.Sequential(nn.Flatten(2), Call(lambda x: x.transpose(1, 2)), nn.LayerNorm(7))),
            Sample("rms_norm", nn.Sequential(last, nn.RMSNorm(7))),
            Sample("group_norm", nn.GroupNorm(7, 7)),
            Sample("group_norm_of_one", nn.GroupNorm(1, 7)),
            Sample("instance_norm", nn.InstanceNorm2d(7, affine=True)),
            Sample("instance_norm_running", nn.InstanceNorm2d(7, track_running_stats=True)),
            Sample("instance_norm_1d", nn.InstanceNorm1d(7), ((2, 7, 13),)),
            Sample("instance_norm_3d", nn.InstanceNorm3d(3), ((2, 3, 4, 5, 7),)),
        ]

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        return normalised(masks[0], self.dims, output)

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return len(self.dims or ()) >= inputs[0].dim()


def normalised(mask: Tensor, dims: Sequence[int] | None, output: Tensor) -> Tensor:
    """The mask where the elements along `dims`, or (None) all of a stream's, depend on each other."""
    if dims is not None:
        return spread(mask, dims)
    whole = spread(mask, range(1, output.dim()))
    return whole.expand([1 if d == 1 else size for d, size in enumerate(output.shape)])
