"""Fuse pointwise operators into the node that feeds them: convolution + bias + residual + activation is one node.

Why: an unfused activation costs a buffer, a mask and a pass over every updated pixel. A fused node has the candidates
of its head united with those of its other inputs, so dilate(x) ∪ residual for a residual block's last convolution.
Not fused: what someone else reads too, what broadcasts to a larger shape (a gate keeps its own truncation point), and
views, concatenations and islands, which have no epilogue.
"""

from __future__ import annotations

from torch import fx

from deltafx.node import DeltaNode, Stage
from deltafx.ops import Affine, Pointwise
from deltafx.ops.pointwise import Activation
from deltafx.passes.context import Context, delta_node
from deltafx.passes.extents import Extent, extents

EPILOGUES = (Activation, Affine, Pointwise)
WITHOUT_EPILOGUE = ("view", "concatenation", "island")


def fuse_pointwise(graph_module: fx.GraphModule, context: Context) -> int:
    known = extents(graph_module)
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    count = 0
    for node in list(graph_module.graph.nodes):
        consumer = delta_node(graph_module, node)
        if consumer is None or not isinstance(consumer.head, EPILOGUES):
            continue
        producers = [arg for arg in node.args if isinstance(arg, fx.Node)]
        for producer in sorted(producers, key=order.__getitem__, reverse=True):
            if may_fuse(graph_module, producer, node, known):
                fused = fuse(graph_module, producer, node)
                known[fused], order[fused] = known[node], order[node]
                count += 1
                break
    return count


def may_fuse(graph_module: fx.GraphModule, producer: fx.Node, node: fx.Node, known: dict[fx.Node, Extent]) -> bool:
    module = delta_node(graph_module, producer)
    if module is None or module.head.locality in WITHOUT_EPILOGUE or len(producer.users) != 1:
        return False
    if not any(isinstance(arg, fx.Node) and arg.op != "get_attr" for arg in producer.args):
        return False  # computed once, when a plan is filled
    others = [arg for arg in node.args if isinstance(arg, fx.Node) and arg is not producer]
    if not others:
        return True
    own = known[producer]
    return own.known and all(other.op != "get_attr" and known.get(other) == own for other in others)


def fuse(graph_module: fx.GraphModule, producer: fx.Node, node: fx.Node) -> fx.Node:
    """Append the consumer's stage to the producer, which takes the consumer's place in the graph."""
    first, second = delta_node(graph_module, producer), delta_node(graph_module, node)
    assert isinstance(first, DeltaNode) and isinstance(second, DeltaNode)
    args = list(producer.args)
    operands: list[int | None] = []
    for arg in node.args:
        if arg is producer:
            operands.append(None)
        else:
            args.append(arg)
            operands.append(len(args) - 1)
    for stage in second.stages:
        first.stages.append(Stage(stage.op, operands))
    first.fused_from = (*first.fused_from, *second.fused_from)
    with graph_module.graph.inserting_before(node):
        fused = graph_module.graph.call_module(str(producer.target), tuple(args))
    fused.meta = dict(producer.meta)
    node.replace_all_uses_with(fused)
    graph_module.graph.erase_node(node)
    graph_module.graph.erase_node(producer)
    return fused
