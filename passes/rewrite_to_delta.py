"""Every operator becomes a delta node; `dense_to_delta` at the inputs, `delta_to_dense` at the outputs.

From here on the graph is the one the user inspects. Containers that the model builds for its output (named tuples,
dataclasses, ordered dictionaries) are built from dense tensors, after `delta_to_dense`.
"""

from __future__ import annotations

from torch import fx

from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.ops import Op
from deltafx.passes.canonicalise_operators import constructs_container
from deltafx.passes.context import Context, leaf_module, place_module


def rewrite_to_delta(graph_module: fx.GraphModule, context: Context) -> int:
    graph = graph_module.graph
    ranks = {node: frame_rank(graph_module, node) for node in graph.find_nodes(op="placeholder")}
    count = 0
    for node in graph.nodes:
        op = leaf_module(graph_module, node)
        if isinstance(op, Op):
            node.target = place_module(graph_module, node.meta["path"], delta_form(op, node))
            count += 1
    for node, rank in ranks.items():
        node.meta["rank"] = rank
        count += enter(graph_module, node)
    for node in list(graph.nodes):
        if node.op == "output" or (node.op == "call_function" and constructs_container(node.target)):
            count += leave(graph_module, node)
    return count


def delta_form(op: Op, node: fx.Node) -> DeltaNode:
    result = DeltaNode(op, node.meta["path"], len(node.args))
    result.fused_from = node.meta.get("fused_from", (node.meta["path"],))
    return result


def enter(graph_module: fx.GraphModule, placeholder: fx.Node) -> int:
    if not placeholder.users:
        return 0
    path = f"dense_to_delta.{placeholder.meta['path']}"
    users = list(placeholder.users)
    with graph_module.graph.inserting_after(placeholder):
        entry = graph_module.graph.call_module(
            place_module(graph_module, path, DenseToDelta(path)), (placeholder,)
        )
    entry.meta = {"path": path}
    for user in users:
        user.replace_input_with(placeholder, entry)
    return 1


def leave(graph_module: fx.GraphModule, node: fx.Node) -> int:
    """Make every tensor that `node` reads dense again; a tensor read twice is the same tensor twice."""
    count = 0
    for source in node.all_input_nodes:
        if source.op == "call_function" and constructs_container(source.target):
            continue
        module = leaf_module(graph_module, source)
        if not isinstance(module, (DeltaNode, DenseToDelta)) and source.op != "get_attr":
            continue
        users = [user for user in source.users if isinstance(leaf_module(graph_module, user), DeltaToDense)]
        if not users:
            path = f"delta_to_dense.{source.meta['path'].removeprefix('dense_to_delta.')}"
            with graph_module.graph.inserting_before(node):
                exit_node = graph_module.graph.call_module(
                    place_module(graph_module, path, DeltaToDense(path)), (source,)
                )
            exit_node.meta = {"path": path}
            users = [exit_node]
            count += 1
        node.replace_input_with(source, users[0])
    return count


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
