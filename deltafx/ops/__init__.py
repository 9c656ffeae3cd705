"""The operators that have a delta form, one file per family, and the registry that finds them.

To add one, write a file like its neighbours and name its classes in OPERATORS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from deltafx.ops.base import FunctionOp, Op, Slot
from deltafx.ops.batch_norm import Affine, BatchNorm
from deltafx.ops.concat import Concat, Stack
from deltafx.ops.conv import Conv
from deltafx.ops.conv_transpose import ConvTranspose
from deltafx.ops.island import Island
from deltafx.ops.linear import Linear
from deltafx.ops.pointwise import Activation, Pointwise
from deltafx.ops.pool import AdaptivePool, AvgPool, MaxPool
from deltafx.ops.reduce import LayerNorm, Norm, Reduction, Softmax
from deltafx.ops.resample import Interpolate, Pad, PixelShuffle, PixelUnshuffle, Shift
from deltafx.ops.view import GetItem, Reshape, View

OPERATORS: tuple[type, ...] = (
    Conv, ConvTranspose, Linear, BatchNorm, Activation, Pointwise, MaxPool, AvgPool, AdaptivePool, Interpolate, Pad,
    PixelShuffle, PixelUnshuffle, Shift, Concat, Stack, View, GetItem, Reshape, Reduction, Softmax, LayerNorm, Norm,
)  # fmt: skip


def _table(kind: str) -> dict:
    table: dict = {}
    for operator_class in OPERATORS:
        for spelling in getattr(operator_class, kind, ()):
            known = table.setdefault(spelling, operator_class)
            assert known is operator_class, f"{spelling} is claimed by {known} and by {operator_class}"
    return table


MODULES: dict[type[nn.Module], type] = _table("modules")
FUNCTIONS: dict[Callable, type] = _table("functions")
METHODS: dict[str, type] = _table("methods")


def operator_of_module(module: nn.Module) -> type | None:
    """The operator class for a leaf module; a subclass counts while it inherits `forward` unchanged."""
    for base in type(module).__mro__:
        if base in MODULES and type(module).forward is base.forward:
            return MODULES[base]
    return None


def function_of_method(name: str) -> Callable | None:
    return getattr(torch.Tensor, name, None)


__all__ = [
    "FUNCTIONS", "METHODS", "MODULES", "OPERATORS", "AdaptivePool", "Affine", "AvgPool", "BatchNorm", "Concat", "Conv",
    "ConvTranspose", "FunctionOp", "GetItem", "Interpolate", "Island", "LayerNorm", "Linear", "MaxPool", "Norm", "Op",
    "Pad", "PixelShuffle", "PixelUnshuffle", "Pointwise", "Reduction", "Reshape", "Shift", "Slot", "Softmax", "Stack",
    "View", "function_of_method", "operator_of_module",
]  # fmt: skip
