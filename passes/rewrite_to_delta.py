"""Every operator becomes a delta node; `dense_to_delta` at the inputs, `delta_to_dense` at the outputs.

From here on the graph is the one the user inspects. Containers that the model builds for its output (named tuples,
dataclasses, ordered dictionaries) are built from dense tensors, after `delta_to_dense`.
"""

from __future__ import annotations

from torch import fx

from deltafx.errors import ConvertError
from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.ops import Op
from deltafx.passes.canonicalise_operators import constructs_container
from deltafx.passes.context import Context, leaf_module, place_module, replace_module


def rewrite_to_delta(graph_module: fx.GraphModule, context: Context) -> int:
    graph = graph_module.graph
    placeholders = graph.find_nodes(op="placeholder")
    ranks = {node: frame_rank(graph_module, node) for node in placeholders if is_raw(graph_module, node)}
    count = 0
    for node in graph.nodes:
        op = leaf_module(graph_module, node)
        if isinstance(op, Op):
            replace_module(graph_module, node, delta_form(op, node))
            count += 1
    for node, rank in reversed(ranks.items()):  # each comes right after the last placeholder
        node.meta["rank"] = rank
        enter(graph_module, node, placeholders[-1])
        count += 1
    for node in list(graph.nodes):
        if node.op == "output" or is_container(node):
            count += leave(graph_module, node)
    return count


def is_raw(graph_module: fx.GraphModule, placeholder: fx.Node) -> bool:
    """Whether anything reads an input before it was compared with the last one."""
    return any(not isinstance(leaf_module(graph_module, user), DenseToDelta) for user in placeholder.users)


def is_container(node: fx.Node) -> bool:
    return node.op == "call_function" and constructs_container(node.target)


def delta_form(op: Op, node: fx.Node) -> DeltaNode:
    result = DeltaNode(op, node.meta["path"], len(node.args))
    result.fused_from = node.meta.get("fused_from", (node.meta["path"],))
    return result


def enter(graph_module: fx.GraphModule, placeholder: fx.Node, last: fx.Node) -> None:
    path = free_path(graph_module.graph, f"dense_to_delta.{placeholder.meta['path']}")
    users = list(placeholder.users)
    with graph_module.graph.inserting_after(last):
        entry = graph_module.graph.call_module(place_module(graph_module, path, DenseToDelta(path)), (placeholder,))
    entry.meta = {"path": path}
    for user in users:
        user.replace_input_with(placeholder, entry)


def leave(graph_module: fx.GraphModule, node: fx.Node) -> int:
    """Make every tensor that `node` reads dense again; a tensor read twice is the same tensor twice."""
    strangers = [user for user in node.users if user.op != "output" and not is_container(user)]
    if strangers:
        raise ConvertError(
            f"{strangers[0].meta['path']}: it is given a {node.target.__name__}, which only the model's output may be; "  # type: ignore[union-attr]
            f"give it a tuple, list or dict."
        )
    count = 0
    for source in node.all_input_nodes:
        module = leaf_module(graph_module, source)
        if not isinstance(module, (DeltaNode, DenseToDelta)) and source.op != "get_attr":
            continue
        exits = [user for user in source.users if isinstance(leaf_module(graph_module, user), DeltaToDense)]
        if not exits:
            name = source.meta["path"].removeprefix("dense_to_delta.")
            path = free_path(graph_module.graph, f"delta_to_dense.{name}")
            with graph_module.graph.inserting_before(node):
                place = place_module(graph_module, path, DeltaToDense(path))
                exits = [graph_module.graph.call_module(place, (source,))]
            exits[0].meta = {"path": path}
            count += 1
        node.replace_input_with(source, exits[0])
    return count


def free_path(graph: fx.Graph, path: str) -> str:
    """The public name of a new node: every path, under which its state is kept, is unique."""
    taken = {node.meta["path"] for node in graph.nodes}
    number, name = 1, path
    while path in taken:
        number += 1
        path = f"{name}#{number}"
    return path


def frame_rank(graph_module: fx.GraphModule, placeholder: fx.Node) -> int | None:
    """The rank that the operators reading an input ask for, if any of them does."""
    waiting, seen = list(placeholder.users), set()
    while waiting:
        node = waiting.pop(0)
        op = leaf_module(graph_module, node)
        if node in seen or not isinstance(op, Op):
            continue
        seen.add(node)
        if op.input_rank is not None and node.args and node.args[0] in (placeholder, *seen):
            return op.input_rank
        if op.locality == "pointwise" and len(node.all_input_nodes) == 1:
            waiting += list(node.users)
    return None
