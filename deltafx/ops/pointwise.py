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

from deltafx.ops.base import FunctionOp, Masks, Op, Slot, borrow_module, union

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink,
    nn.Softplus, nn.Softsign, nn.Threshold,
)  # fmt: skip

ACTIVATION_FUNCTIONS: tuple[Callable, ...] = (
    F.relu, F.relu6, F.leaky_relu, F.prelu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.sigmoid, F.logsigmoid,
    F.tanh, F.tanhshrink, F.hardtanh, F.hardsigmoid, F.hardswish, F.hardshrink, F.softshrink, F.softplus, F.softsign,
    F.threshold, torch.relu, torch.selu, torch.celu, torch.prelu, torch.sigmoid, torch.tanh, torch.threshold,
    torch.clamp, torch.clip, torch.clamp_min, torch.clamp_max,
)  # fmt: skip

ADDITIONS: tuple[Callable, ...] = (operator.add, torch.add, operator.sub, torch.sub, torch.subtract, torch.rsub)
PRODUCTS: tuple[Callable, ...] = (operator.mul, torch.mul, torch.multiply)
QUOTIENTS: tuple[Callable, ...] = (operator.truediv, torch.div, torch.divide, torch.true_divide)
OTHERS: tuple[Callable, ...] = (
    operator.neg, operator.pos, operator.abs, operator.pow, operator.floordiv, operator.mod, operator.invert,
    operator.and_, operator.or_, operator.xor, operator.eq, operator.ne, operator.lt, operator.le, operator.gt,
    operator.ge, torch.neg, torch.abs, torch.pow, torch.square, torch.sqrt, torch.rsqrt, torch.reciprocal, torch.exp,
    torch.expm1, torch.exp2, torch.log, torch.log1p, torch.log2, torch.log10, torch.sin, torch.cos, torch.erf,
    torch.sign, torch.floor, torch.ceil, torch.round, torch.trunc, torch.frac, torch.remainder, torch.fmod, torch.atan,
    torch.atan2, torch.maximum, torch.minimum, torch.fmax, torch.fmin, torch.where, torch.lerp, torch.addcmul,
    torch.addcdiv, torch.nan_to_num, torch.isnan, torch.isfinite, torch.eq, torch.ne, torch.lt, torch.le, torch.gt,
    torch.ge, torch.logical_and, torch.logical_or, torch.logical_not, torch.logical_xor, torch.floor_divide,
    torch.masked_fill, torch.heaviside, torch.logit, torch.sinc, torch.square,
)  # fmt: skip

METHODS = (
    "relu sigmoid tanh clamp clip clamp_min clamp_max hardshrink prelu add sub subtract mul multiply div divide "
    "true_divide neg abs pow square sqrt rsqrt reciprocal exp expm1 exp2 log log1p log2 log10 sin cos erf sign floor "
    "ceil round trunc frac remainder fmod atan atan2 maximum minimum fmax fmin where lerp addcmul addcdiv nan_to_num "
    "isnan isfinite eq ne lt le gt ge logical_and logical_or logical_not logical_xor floor_divide masked_fill "
    "to float half bfloat16 double type_as"
).split()


class Pointwise(FunctionOp):
    """Any pointwise function of its inputs."""

    name = "pointwise"
    locality = "pointwise"
    functions = (*ACTIVATION_FUNCTIONS, *ADDITIONS, *PRODUCTS, *QUOTIENTS, *OTHERS)
    methods = tuple(METHODS)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        return union(masks)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        name = getattr(self.function, "__name__", "")
        operands = [value for value in self.args if isinstance(value, Slot)]
        changed = [slot for slot in operands if deltas[slot.index]]
        if name in ("add", "sub", "subtract", "rsub", "iadd", "isub", "neg", "pos"):
            return True
        if name in ("mul", "multiply"):
            return len(changed) == 1
        if name in ("div", "divide", "true_divide", "truediv"):
            return "rounding_mode" not in self.kwargs and changed == [self.args[0]]
        return False


class Activation(Op):
    """An activation module, with its parameters if it has any."""

    name = "activation"
    locality = "pointwise"
    modules = ACTIVATIONS

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = borrow_module(module)

    @classmethod
    def from_module(cls, module: nn.Module) -> Activation:
        return cls(module)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        return union(masks)
