"""Compute once what depends on weights alone.

Why: position encodings, frozen batch norms, standardised weights and relative position biases are written as arithmetic
on parameters, which would otherwise be repeated in every frame and hide constants from the passes that follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from deltafx.passes.canonicalise_operators import CALLS
from deltafx.passes.context import (
    Context,
    called_name,
    constant_of,
    draws_random_numbers,
    place_constant,
    remove_unread,
)


def fold_constants(graph_module: fx.GraphModule, context: Context) -> int:
    graph = graph_module.graph
    values: dict[fx.Node, Any] = {}
    interpreter = fx.Interpreter(graph_module)
    with torch.inference_mode(False), torch.no_grad():
        for node in graph.nodes:
            if node.op == "get_attr":
                values[node] = constant_of(graph_module, node)
            elif is_constant(node, values):
                values[node] = compute(interpreter, node, values)
    count = 0
    for node, value in values.items():
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in values for user in node.users):
            continue
        with graph.inserting_before(node):
            constant = graph.get_attr(place_constant(graph_module, node.meta["path"], value.clone()))
        constant.meta = dict(node.meta)
        node.replace_all_uses_with(constant)
        count += 1
    return count + remove_unread(graph)


def is_constant(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Whether a call reads constants alone, or nothing, and gives the same in every frame."""
    if node.op not in CALLS or not all(source in values for source in node.all_input_nodes):
        return False
    return not draws_random_numbers(called_name(node))


def compute(interpreter: fx.Interpreter, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """What a node gives, on copies: an operator that is not known may write into what it is given."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
    return getattr(interpreter, node.op)(node.target, args, kwargs)
