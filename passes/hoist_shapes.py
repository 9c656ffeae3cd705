"""Ask the input of an operator for the size that its result has too.

Why: `F.interpolate(top, size=lateral.shape[-2:])` followed by `lateral + top` is how feature pyramids merge. The
question makes `lateral` a tensor with two readers, and one that must be there before `top` is, so that the addition
could not be fused into the convolution that gives it.
Not moved: questions whose answer may differ, and where nothing lies between but what may itself be fused into its
input.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx

from deltafx.passes.context import Context, delta_node
from deltafx.passes.extents import Known, extents, is_shape, picked
from deltafx.passes.fuse_pointwise import EPILOGUES


def hoist_shapes(graph_module: fx.GraphModule, context: Context) -> int:
    known = extents(graph_module)
    count = 0
    for node in graph_module.graph.nodes:
        if not asks_for_size(node):
            continue
        source = earlier_with_sizes(graph_module, node.args[0], indices(node), known)
        if source is not None:
            node.replace_input_with(node.args[0], source)
            count += 1
    return count


def asks_for_size(node: fx.Node) -> bool:
    return is_shape(node) or (node.op == "call_method" and node.target == "size" and len(node.args) == 2)


def indices(node: fx.Node) -> list[Any]:
    """Which dimensions of a shape are read; None stands for anything but an index or slice."""
    if not is_shape(node):
        return [node.args[1]]
    return [user.args[1] if user.target is operator.getitem else None for user in node.users]


def earlier_with_sizes(graph_module: fx.GraphModule, node: Any, wanted: list[Any], known: Known) -> Any:
    """The nearest tensor that gives the same answers and is the input of an operator which is no epilogue."""
    sizes = [picked(known.get(node), index) for index in wanted]
    while None not in sizes and (module := delta_node(graph_module, node)) is not None:
        source = node.args[0]
        if [picked(known.get(source), index) for index in wanted] != sizes:
            return None
        if not isinstance(module.head, EPILOGUES):
            return source
        node = source
    return None
