"""What can be said of tensors' shapes before any frame was seen: enough to know which are equal.

The extent of a tensor has an entry for each dimension: a number, or a name built from what made the dimension. So two
convolutions with the same arithmetic over the same tensor have equal extents, and a 3x3 with stride 2 and padding 1 has
that of a 1x1 with stride 2. What nothing is known of, not even the rank, has no extent and equals nothing.
"""

from __future__ import annotations

import builtins
import operator
from typing import Any

import torch
from torch import fx

from deltafx import ops
from deltafx.node import DeltaNode
from deltafx.ops.base import tuple_of
from deltafx.passes.context import constant_of, leaf_module

Extent = tuple[Any, ...]
Known = dict[fx.Node, Extent]
CONVERSIONS = (torch.Tensor.to, torch.Tensor.type_as)  # x.to(y) has the shape of x, whatever that of y is
TURNS = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis")


def extents(graph_module: fx.GraphModule) -> Known:
    """The extents in a canonical or rewritten graph, of the nodes that have one."""
    known: Known = {}
    for node in graph_module.graph.nodes:
        module = leaf_module(graph_module, node)
        extent: Extent | None = None
        if node.op == "placeholder" and node.meta.get("rank") is not None:
            extent = tuple((node, d) for d in range(node.meta["rank"]))
        elif node.op == "get_attr":
            constant = constant_of(graph_module, node)
            extent = None if constant is None else tuple(constant.shape)
        elif isinstance(module, (DeltaNode, ops.Op)):
            extent = after(module, list(node.args), known)
        elif module is not None:
            extent = known.get(node.args[0])  # dense_to_delta, delta_to_dense
        if extent is not None:
            known[node] = extent
    return known


def after(module: Any, inputs: list[Any], known: Known) -> Extent | None:
    """The extent of an operator's result. The later stages of a fused node do not change that of its head."""
    op = module
    if isinstance(module, DeltaNode):
        op, inputs = module.head, inputs[: len(module.stages[0].operands)]
    if op.input_rank is not None:  # a tensor of which nothing is known gives its dimensions names of its own
        known.setdefault(inputs[0], tuple((inputs[0], d) for d in range(op.input_rank)))
    if isinstance(op, ops.Concat):
        return joined(op, [known.get(part) for part in inputs])
    if isinstance(op, ops.Pointwise) and op.function not in CONVERSIONS:
        return broadcast([known.get(part) for part in inputs])
    source = known.get(inputs[0]) if inputs else None
    if source is None:
        return None
    if isinstance(op, ops.Interpolate):
        return resized(op, inputs, source, known)
    if isinstance(op, (ops.Norm, ops.LayerNorm, ops.Pointwise)):
        return source
    if len(inputs) > 1:
        return None
    if isinstance(op, (ops.Conv, ops.SamePadded, ops.MaxPool, ops.AvgPool, ops.AdaptivePool)):
        return windowed(op, source)
    if isinstance(op, ops.Linear):
        return (*source[:-1], op.weight.shape[0])
    if isinstance(op, ops.Reduction) or getattr(getattr(op, "function", None), "__name__", "") in TURNS:
        return rearranged(op, source)
    return source if op.locality == "pointwise" else None


def windowed(op: Any, source: Extent) -> Extent | None:
    """The extent after an operator with a window."""
    if isinstance(op, ops.Conv):
        excess = [sum(p) - d * (k - 1) - 1 for p, d, k in zip(op.padding, op.dilation, op.kernel)]
        return (source[0], op.weight.shape[0], *map(moved, source[2:], excess, op.stride))
    if isinstance(op, ops.SamePadded):
        channels = op.inner.weight.shape[0] if isinstance(op.inner, ops.Conv) else source[1]
        return (source[0], channels, *map(moved, source[2:], (-1, -1), op.stride))
    call = op.arguments((None,))
    if isinstance(op, ops.AdaptivePool):
        size = tuple_of(call["output_size"], op.rank)
        return (*source[:2], *(old if new is None else new for old, new in zip(source[2:], size)))
    kernel = tuple_of(call["kernel_size"], op.rank)
    stride = tuple_of(call["stride"], op.rank) if call["stride"] else kernel
    dilation, padding = tuple_of(call.get("dilation", 1), op.rank), tuple_of(call["padding"], op.rank)
    excess = [2 * p - d * (k - 1) - 1 for p, d, k in zip(padding, dilation, kernel)]
    rounding = "ceil" if call["ceil_mode"] else "floor"
    return (*source[:2], *(moved(*each, rounding) for each in zip(source[2:], excess, stride)))


def moved(size: Any, excess: int, stride: int, rounding: str = "floor") -> Any:
    """One dimension after a window: `floor((size + excess) / stride) + 1`, or the same rounded up."""
    if stride == 1 and (excess == -1 or isinstance(size, int)):
        return size + excess + 1 if isinstance(size, int) else size
    if isinstance(size, int) and rounding == "floor":
        return (size + excess) // stride + 1
    return (rounding, size, excess, stride)


def rearranged(op: Any, source: Extent) -> Extent | None:
    """The extent after a permutation, or a reduction of whole dimensions: found with a tensor of unlike sizes."""
    sizes = [2 + d for d in range(len(source))]
    try:
        result = op(torch.empty(sizes, device="meta"))
    except (IndexError, RuntimeError):
        return None  # the rank is another one: a convolution was given a tensor without streams
    return tuple(source[size - 2] if size > 1 else 1 for size in result.shape)


def broadcast(parts: list[Extent | None]) -> Extent | None:
    """The common extent: 1 gives way to anything, and everything else must be equal."""
    if None in parts:
        return None
    rank = max(len(part) for part in parts if part is not None)
    aligned = [(1,) * (rank - len(part)) + part for part in parts if part is not None]
    sizes = [set(column) - {1} or {1} for column in zip(*aligned)]
    return tuple(size.pop() for size in sizes) if all(len(size) == 1 for size in sizes) else None


def joined(op: ops.Concat, parts: list[Extent | None]) -> Extent | None:
    """The extent of a concatenation whose parts are as long as each other in every other dimension."""
    first = parts[0]
    if op.name != "cat" or first is None or any(part is None or len(part) != len(first) for part in parts):
        return None
    dim = op.dim(len(first))
    columns = list(zip(*parts))
    if any(len(set(column)) > 1 for d, column in enumerate(columns) if d != dim):
        return None
    lengths = columns[dim]
    whole = sum(lengths) if all(isinstance(size, int) for size in lengths) else ("joined", *lengths)
    return (*first[:dim], whole, *first[dim + 1 :])


# ---------------------------------------------------------------------------------------------------------------------
# Sizes that the model asks for


def resized(op: ops.Interpolate, inputs: list[Any], source: Extent, known: Known) -> Extent | None:
    """The extent after an interpolation to given sizes, which may be those of another tensor, or by given factors."""
    call = op.arguments(inputs)
    rank = len(source) - 2
    if call["size"] is not None:
        sizes = asked(call["size"], known)
    elif len(inputs) == 1:
        sizes = tuple(("scaled", *pair) for pair in zip(source[2:], tuple_of(call["scale_factor"], rank)))
    else:
        sizes = None
    if isinstance(sizes, int):
        sizes = (sizes,) * rank
    return (*source[:2], *sizes) if isinstance(sizes, tuple) and len(sizes) == rank and None not in sizes else None


def asked(value: Any, known: Known) -> Any:
    """A size, or several, from `y.shape[-2:]`, `y.size()[2:]`, `(y.shape[2], y.size(3))` or numbers; else None."""
    if isinstance(value, (tuple, list)):
        return tuple(asked(part, known) for part in value)
    if not isinstance(value, fx.Node):
        return value if isinstance(value, int) else None
    source, index = question(value)
    return picked(known.get(source), index)


def picked(extent: Extent | None, index: Any) -> Any:
    """The entry at an index, or those of a slice; None where there is none."""
    if extent is None or not isinstance(index, (int, slice)):
        return None
    return extent[index] if isinstance(index, slice) or -len(extent) <= index < len(extent) else None


def question(node: fx.Node) -> tuple[Any, Any]:
    """The y and i of `y.shape[i]`, `y.size()[i]` or `y.size(i)`; (None, None) for anything else."""
    source: Any = node.args[0] if node.args else None
    if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
        return source, node.args[1]
    if node.target is operator.getitem and is_shape(source):
        return source.args[0], node.args[1]
    return None, None


def is_shape(node: Any) -> bool:
    """Whether a node is `y.shape` or `y.size()`."""
    if not isinstance(node, fx.Node):
        return False
    if node.op == "call_method":
        return node.target == "size" and len(node.args) == 1
    return node.target is builtins.getattr and bool(node.args[1] == "shape")
