"""The operators that have a delta form, one file per family, and the registry that finds them.

To add one, write a file like its neighbours and name its classes in OPERATORS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from deltafx.ops.attention import Attention
from deltafx.ops.base import FunctionOp, Op, Slot
from deltafx.ops.batch_norm import Affine, BatchNorm
from deltafx.ops.concat import Concat, Stack
from deltafx.ops.conv import Conv
from deltafx.ops.conv_transpose import ConvTranspose
from deltafx.ops.foreign import SamePadded
from deltafx.ops.index import IndexSelect, Repeat
from deltafx.ops.interpolate import Interpolate
from deltafx.ops.island import Island
from deltafx.ops.linear import Linear
from deltafx.ops.matmul import Einsum, MatMul
from deltafx.ops.mvit import AddPositions, AddShortcut, FitRank
from deltafx.ops.order import Order
from deltafx.ops.pointwise import Activation, Pointwise
from deltafx.ops.pool import AdaptivePool, AvgPool, MaxPool
from deltafx.ops.reduce import LayerNorm, Norm, Reduction, Softmax
from deltafx.ops.resample import ChannelShuffle, Pad, PixelShuffle, PixelUnshuffle, Shift
from deltafx.ops.swin import PatchMerging, WindowAttention
from deltafx.ops.unfold import Fold, Unfold
from deltafx.ops.view import Attribute, GetItem, Reshape, View

OPERATORS: tuple[type[Any], ...] = (
    Conv, ConvTranspose, Linear, BatchNorm, Activation, Pointwise, MaxPool, AvgPool, AdaptivePool, Interpolate, Pad,
    PixelShuffle, PixelUnshuffle, ChannelShuffle, Shift, Concat, Stack, View, GetItem, Attribute, Reshape, IndexSelect,
    Repeat, Unfold, Fold, Reduction, Softmax, LayerNorm, Norm, Order, MatMul, Einsum, Attention, SamePadded,
    WindowAttention, PatchMerging, FitRank, AddPositions, AddShortcut,
)  # fmt: skip


def table_of(kind: str, operators: Sequence[type[Any]] = OPERATORS) -> dict:
    """Which operator covers each spelling of a kind; none may be covered by two."""
    table: dict = {}
    for operator_class in operators:
        for spelling in getattr(operator_class, kind, ()):
            known = table.setdefault(spelling, operator_class)
            assert known is operator_class, f"{spelling} is claimed by {known} and by {operator_class}"
    return table


COMPUTATION = ("forward", "_conv_forward", "_output_padding", "_apply_instance_norm")

MODULES: dict[type[nn.Module], type[Any]] = table_of("module_types")
NAMED_MODULES: dict[str, type[Any]] = table_of("module_names")  # of libraries that need not be installed
FUNCTIONS: dict[Callable, type[Any]] = table_of("functions")
NAMED_FUNCTIONS: dict[str, type[Any]] = table_of("function_names")
METHODS: dict[str, type[Any]] = table_of("methods")


def operator_of_module(module: nn.Module) -> type[Any] | None:
    """The operator class for a leaf module; a subclass counts while it computes what its base does."""
    for kind in type(module).__mro__:
        family = MODULES.get(kind) or NAMED_MODULES.get(f"{kind.__module__}.{kind.__qualname__}")
        if family is not None:
            return family if computes_like(module, kind) else None
    return None


def operator_of_function(function: Any) -> type[Any] | None:
    """The operator class for a function."""
    original = getattr(function, "stands_for", function)
    name = f"{getattr(original, '__module__', '')}.{getattr(original, '__qualname__', '')}"
    return FUNCTIONS.get(function) or NAMED_FUNCTIONS.get(name)


def computes_like(module: nn.Module, base: type) -> bool:
    """Whether a module has `forward`, and what torch.nn calls from it, from `base`."""
    same = all(getattr(type(module), name, None) is getattr(base, name, None) for name in COMPUTATION)
    return same and not any(name in vars(module) for name in COMPUTATION)


__all__ = [
    "FUNCTIONS", "METHODS", "MODULES", "OPERATORS", "Activation", "AdaptivePool", "AddPositions", "AddShortcut",
    "Affine", "Attention", "Attribute", "AvgPool", "BatchNorm", "ChannelShuffle", "Concat", "Conv", "ConvTranspose",
    "Einsum", "FitRank", "Fold", "FunctionOp", "GetItem", "IndexSelect", "Interpolate", "Island", "LayerNorm",
    "Linear", "MatMul", "MaxPool", "Norm", "Op", "Order", "Pad", "PatchMerging", "PixelShuffle", "PixelUnshuffle",
    "Pointwise", "Reduction", "Repeat", "Reshape", "SamePadded", "Shift", "Slot", "Softmax", "Stack", "Unfold", "View",
    "WindowAttention", "computes_like", "operator_of_function", "operator_of_module", "table_of",
]  # fmt: skip
