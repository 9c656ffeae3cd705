"""Ask the input of an operator for the size that its result has too.

Why: `F.interpolate(top, size=lateral.shape[-2:])` followed by `lateral + top` is how feature pyramids merge. The
question makes `lateral` a tensor with two readers, and one that must be there before `top` is, so that the addition
could not be fused into the convolution that gives it.
Not moved: questions for channels, and where nothing lies between but what may itself be fused into its input.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from deltafx.passes.context import Context, delta_node
from deltafx.passes.extents import Extent, Known, extents, is_shape
from deltafx.passes.fuse_pointwise import EPILOGUES


def hoist_shapes(graph_module: fx.GraphModule, context: Context) -> int:
    known = extents(graph_module)
    count = 0
    for node in graph_module.graph.nodes:
        extent = known.get(node.args[0]) if asks_for_size(node) else None
        if extent is None or not all(is_spatial(index, len(extent)) for index in picks(node)):
            continue
        source = earlier_with_grid(graph_module, node.args[0], extent, known)
        if source is not None:
            node.replace_input_with(node.args[0], source)
            count += 1
    return count


def asks_for_size(node: fx.Node) -> bool:
    return is_shape(node) or (node.op == "call_method" and node.target == "size" and len(node.args) == 2)


def picks(node: fx.Node) -> list[Any]:
    """Which of the dimensions are read; None stands for anything but an index or slice."""
    if not is_shape(node):
        return [node.args[1]]
    return [user.args[1] if user.target is operator.getitem else None for user in node.users]


def is_spatial(index: Any, rank: int) -> bool:
    if isinstance(index, slice):
        return index in (slice(2, None), slice(2 - rank, None))
    return isinstance(index, int) and index % rank >= 2


def earlier_with_grid(graph_module: fx.GraphModule, node: Any, extent: Extent, known: dict) -> Any:
    """The nearest tensor of the same grid that is the input of an operator which is not an epilogue."""
    while (module := delta_node(graph_module, node)) is not None:
        source = node.args[0]
        if len(known.get(source, ())) != len(extent) or known[source][2:] != extent[2:]:
            return None
        if not isinstance(module.head, EPILOGUES):
            return source
        node = source
    return None
