"""Pointwise operators: an output element depends on the elements at the same place (after broadcasting).

Dense spellings: every activation of `torch.nn`, its functional and method forms; arithmetic and comparison of tensors
with tensors, numbers and constants; squeeze-excite gates (a broadcast multiplication); unary mathematics.
Mask rule: the union of the input masks, broadcast like the tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import (
    FRAME,
    Call,
    CallOfTwo,
    FunctionOp,
    Masks,
    Op,
    Sample,
    Slot,
    borrow_module,
    of_rank,
    seeded,
    union,
)

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink,
    nn.Softshrink, nn.Softplus, nn.Softsign, nn.Threshold,
)  # fmt: skip

UNARY: tuple[Callable, ...] = (
    F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.sigmoid, F.logsigmoid, F.tanh,
    F.tanhshrink, F.hardtanh, F.hardsigmoid, F.hardswish, F.hardshrink, F.softshrink, F.softplus, F.softsign,
    torch.relu, torch.selu, torch.celu, torch.sigmoid, torch.tanh, operator.neg, operator.pos, operator.abs, torch.neg,
    torch.abs, torch.square, torch.exp, torch.expm1, torch.exp2, torch.sin, torch.cos, torch.atan, torch.erf,
    torch.sinc, torch.sign, torch.floor, torch.ceil, torch.round, torch.trunc, torch.frac, torch.nan_to_num,
    torch.isnan, torch.isfinite, torch.logical_not,
)  # fmt: skip

# Defined, or telling, between 0 and 1.
UNARY_OF_SHARES: tuple[Callable, ...] = (
    torch.sqrt, torch.rsqrt, torch.reciprocal, torch.log, torch.log1p, torch.log2, torch.log10, torch.logit,
)  # fmt: skip

BINARY: tuple[Callable, ...] = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, torch.add, torch.sub,
    torch.subtract, torch.rsub, torch.mul, torch.multiply, torch.div, torch.divide, torch.true_divide,
    torch.floor_divide, torch.remainder, torch.fmod, torch.atan2, torch.maximum, torch.minimum, torch.fmax, torch.fmin,
    torch.heaviside, operator.lt, operator.le, operator.gt, operator.ge, torch.lt, torch.le, torch.gt, torch.ge,
    torch.logical_and, torch.logical_or, torch.logical_xor,
)  # fmt: skip

EQUALITIES: tuple[Callable, ...] = (operator.eq, operator.ne, torch.eq, torch.ne)
POWERS: tuple[Callable, ...] = (operator.pow, torch.pow)
BITWISE: tuple[Callable, ...] = (operator.and_, operator.or_, operator.xor)
OTHERS: tuple[Callable, ...] = (
    operator.invert, F.prelu, F.threshold, torch.prelu, torch.threshold, torch.clamp, torch.clip, torch.clamp_min,
    torch.clamp_max, torch.where, torch.lerp, torch.addcmul, torch.addcdiv, torch.masked_fill,
)  # fmt: skip

FUNCTIONS = (*UNARY, *UNARY_OF_SHARES, *BINARY, *EQUALITIES, *POWERS, *BITWISE, *OTHERS)
CONVERSIONS = ("to", "float", "half", "bfloat16", "double", "type_as")

ADDITIONS = ("add", "sub", "subtract", "rsub", "neg", "pos")
PRODUCTS = ("mul", "multiply")
QUOTIENTS = ("div", "divide", "true_divide", "truediv")


class Pointwise(FunctionOp):
    """Any pointwise function of its inputs."""

    name = "pointwise"
    locality = "pointwise"
    functions = FUNCTIONS
    methods = (*sorted({f.__name__ for f in FUNCTIONS if hasattr(Tensor, f.__name__)}), *CONVERSIONS)

    @property
    def spelling(self) -> str:
        return getattr(self.function, "__name__", self.name).strip("_")

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        gate, row, slope, columns = torch.randn(7, 1, 1), torch.randn(11, 1), torch.rand(7), torch.arange(13)
        functions = [Sample(name_of(f), Call(f)) for f in UNARY]
        functions += [Sample(name_of(f), Call(f), low=0.1, high=0.9) for f in UNARY_OF_SHARES]
        functions += [Sample(name_of(f), CallOfTwo(f), (FRAME, FRAME)) for f in BINARY]
        functions += [Sample(name_of(f), Call(lambda x, f=f: f(x, 0.0))) for f in EQUALITIES]
        functions += [Sample(name_of(f), CallOfTwo(f), (FRAME, FRAME), low=0.1) for f in POWERS]
        functions += [Sample(name_of(f), Call(lambda x, f=f: f(x > 0, x < 1))) for f in BITWISE]
        one = {
            "scalars": lambda x: (1 - 2 * x / 3 + 0.5) ** 2 // 0.3 % 1.7,
            "reciprocal_of_number": lambda x: 1 / x,
            "constant": lambda x: x * gate + row,
            "same_twice": lambda x: x * x - x,
            "invert": lambda x: ~(x > 0),
            "prelu": lambda x: F.prelu(x, slope) + torch.prelu(x, slope) + x.prelu(slope),
            "threshold": lambda x: F.threshold(x, 0.1, 3.0) + torch.threshold(x, 0.2, 5.0),
            "clamp": lambda x: torch.clamp(x, -1, 1.5) + x.clip(max=1) + x.clamp_min(0) + torch.clamp_max(x, 0.3),
            "hard_swish": lambda x: x * F.relu6(x + 3) / 6,
            "in_place": lambda x: F.leaky_relu(x * 2, 0.1, True).mul_(3).add_(x),
            "masked_fill": lambda x: x.masked_fill(x < 0, 0.5) + torch.masked_fill(x, x > 1, -1.0),
            "convert": lambda x: x.double().float().to(torch.float64),
            "methods": lambda x: x.abs().add(1, alpha=2).sqrt().mul(x.sigmoid()).neg(),
        }
        two = {
            "alpha": lambda x, y: torch.add(x, y, alpha=0.3) - torch.sub(y, x, alpha=2),
            "keywords": lambda x, y: torch.mul(x, other=y) + torch.div(input=x, other=y),
            "rounded_quotient": lambda x, y: torch.div(x, y, rounding_mode="floor"),
            "where": lambda x, y: torch.where(x > 0, x, y) + x.where(y > 0, 0.0),
            "three": lambda x, y: torch.lerp(x, y, 0.3) + torch.addcmul(x, x, y) + torch.addcdiv(y, x, y, value=0.2),
            "type_as": lambda x, y: x.double().type_as(y),
            "to_another": lambda x, y: x.double().to(y) + columns.to(y),
            "constant_type_as": lambda x, y: columns.type_as(x) + y,
        }
        functions += [Sample(name, Call(function)) for name, function in one.items()]
        functions += [Sample(name, CallOfTwo(function), (FRAME, FRAME)) for name, function in two.items()]
        gates = {"channel_gate": (2, 7, 1, 1), "pixel_gate": (2, 1, 11, 13), "row_gate": (2, 7, 1, 13)}
        functions += [Sample(name, CallOfTwo(lambda x, y: y * x), (FRAME, shape)) for name, shape in gates.items()]
        functions += [Sample("outer_product", CallOfTwo(operator.mul), ((2, 7, 11, 1), (2, 1, 1, 13)))]
        return functions

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        if self.takes_dtype:
            masks = masks[:1]
            if masks[0] is None:
                return torch.zeros([1] * output.dim(), dtype=torch.uint8, device=output.device)
        return of_rank(union(masks), output.dim())

    @property
    def takes_dtype(self) -> bool:
        """Whether all that it reads of its second tensor is the dtype."""
        return getattr(self.function, "__name__", "") in ("type_as", "to") and len(self.args) + len(self.kwargs) > 1

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        places = self.function in (torch.where, Tensor.where) and len(self.args) + len(self.kwargs) == 1
        return "it returns the places where its condition holds" if places else None

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        name = getattr(self.function, "__name__", "")
        if name in ADDITIONS:
            return True
        if name in PRODUCTS:
            return sum(deltas) == 1
        if name in QUOTIENTS and "rounding_mode" not in self.kwargs:
            dividend = self.args[0] if self.args else self.kwargs.get("input")
            return sum(deltas) == 1 and isinstance(dividend, Slot) and deltas[dividend.index]
        return False


def name_of(function: Callable) -> str:
    return f"{function.__module__ or 'torch'}.{function.__name__}"


class Activation(Op):
    """An activation module, with its parameters if it has any."""

    name = "activation"
    locality = "pointwise"
    module_types = ACTIVATIONS

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = borrow_module(module)

    @property
    def spelling(self) -> str:
        return type(self.module).__name__.lower()

    @classmethod
    def from_module(cls, module: nn.Module) -> Activation:
        return cls(module)

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        arguments: dict[type, tuple] = {nn.Threshold: (0.1, 20.0), nn.PReLU: (7,), nn.RReLU: (0.1, 0.3)}
        each = [Sample(kind.__name__, kind(*arguments.get(kind, ()))) for kind in ACTIVATIONS]
        in_place = nn.Sequential(nn.Hardswish(inplace=True), nn.Threshold(0.1, -1.0, inplace=True))
        return [*each, Sample("gelu_tanh", nn.GELU("tanh")), Sample("in_place", in_place)]

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        return union(masks)
