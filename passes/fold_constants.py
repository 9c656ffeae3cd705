"""Compute once what depends on weights alone.

Why: position encodings, frozen batch norms and relative position biases are written as arithmetic on parameters, which
would otherwise be repeated in every frame and hide constants from the passes that follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from deltafx.ops import Island
from deltafx.passes.context import Context, constant_of, leaf_module, place_constant


def fold_constants(graph_module: fx.GraphModule, context: Context) -> int:
    count = 0
    values: dict[fx.Node, Any] = {}
    for node in list(graph_module.graph.nodes):
        if node.op == "get_attr":
            values[node] = constant_of(graph_module, node)
        module = leaf_module(graph_module, node)
        if module is None or not node.args or not all(source in values for source in node.all_input_nodes):
            continue
        if (isinstance(module, Island) and module.is_random) or not node.all_input_nodes:
            continue
        with torch.no_grad():
            value = module(*fx.node.map_arg(node.args, values.__getitem__))
        if not isinstance(value, Tensor):
            continue
        with graph_module.graph.inserting_before(node):
            constant = graph_module.graph.get_attr(place_constant(graph_module, node.meta["path"], value.clone()))
        constant.meta = dict(node.meta)
        values[constant] = value
        node.replace_all_uses_with(constant)
        graph_module.graph.erase_node(node)
        count += 1
    return count + remove_unread(graph_module.graph)


def remove_unread(graph: fx.Graph) -> int:
    """Remove nodes nothing reads: an operator of the dense graph has no side effects."""
    count = 0
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op in ("get_attr", "call_module"):
            graph.erase_node(node)
            count += 1
    return count


