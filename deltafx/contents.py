"""Operators whose result has a size that depends on the picture: no buffer can be kept for it."""

from __future__ import annotations

import operator

from torch import fx
from torch.utils import _pytree as pytree

from deltafx.errors import NoGraph
from deltafx.passes.context import called_name

SIZED_BY_CONTENTS = frozenset((
    "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "nms", "batched_nms", "item", "tolist",
    "numpy",
))  # fmt: skip
MASKS = frozenset((
    "gt", "greater", "lt", "less", "ge", "greater_equal", "le", "less_equal", "eq", "ne", "not_equal", "isnan", "isinf",
    "isfinite", "isclose", "logical_and", "logical_or", "logical_xor", "logical_not", "and_", "or_", "xor", "invert",
    "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "bool",
))  # fmt: skip


def refuse_sizes_by_contents(graph: fx.Graph) -> None:
    """Raise NoGraph for a node, whose path is known, that gives as much as it finds."""
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and is_sized_by_contents(node):
            raise NoGraph(
                f"{node.meta['path']}: an output whose form depends on the picture has no delta form, and a graph has "
                f"no other."
            )


def is_sized_by_contents(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return any(
            isinstance(index, fx.Node) and called_name(index) in MASKS for index in pytree.tree_leaves(node.args[1])
        )
    return called_name(node) in SIZED_BY_CONTENTS
