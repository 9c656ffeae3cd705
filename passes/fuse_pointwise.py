"""Fuse pointwise operators into the node that feeds them: convolution + bias + residual + activation is one node.

Why: an unfused activation costs a buffer, a mask and a pass over every updated pixel. A fused node has the candidates
of its head united with those of its other inputs, so dilate(x) ∪ residual for a residual block's last convolution.
Not fused: what someone else reads too, what broadcasts to a larger shape (a gate keeps its own truncation point), and
views, concatenations and islands, which have no epilogue.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from deltafx.node import Stage
from deltafx.ops import Affine, Conv, ConvTranspose, Pointwise, SamePadded
from deltafx.ops.pointwise import Activation
from deltafx.passes.context import Context, delta_node
from deltafx.passes.extents import Known, extents

EPILOGUES = (Activation, Affine, Pointwise)
WITHOUT_EPILOGUE = ("view", "concatenation", "island")


def fuse_pointwise(graph_module: fx.GraphModule, context: Context) -> int:
    known = extents(graph_module)
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    count = 0
    for node in list(graph_module.graph.nodes):
        consumer = delta_node(graph_module, node)
        if consumer is None or not isinstance(consumer.head, EPILOGUES) or len(consumer.stages) != 1:
            continue
        producers = [arg for arg in node.args if may_fuse(graph_module, arg, node, known)]
        if producers:
            best = max(producers, key=lambda producer: (convolves(graph_module, producer), order[producer]))
            fused = fuse(graph_module, best, node)
            order[fused] = order[node]
            if node in known:
                known[fused] = known[node]
            count += 1
    return count


def convolves(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """A convolution adds a residual for nothing; of several producers it is the best."""
    module = delta_node(graph_module, node)
    return module is not None and isinstance(module.head, (Conv, ConvTranspose, SamePadded))


def may_fuse(graph_module: fx.GraphModule, producer: fx.Node, node: fx.Node, known: Known) -> bool:
    module = delta_node(graph_module, producer)
    if module is None or module.head.locality in WITHOUT_EPILOGUE or len(producer.users) != 1:
        return False  # someone else reads it, or it has no epilogue
    others: list[Any] = [arg for arg in node.args if arg is not producer]
    if not others:
        return True
    own = known.get(producer)
    same = all(other.op == "get_attr" or known.get(other) == own for other in others)
    return own is not None and known.get(node) == own and same


def fuse(graph_module: fx.GraphModule, producer: fx.Node, node: fx.Node) -> fx.Node:
    """Append the consumer's stage to the producer, which takes the consumer's place in the graph."""
    first, second = delta_node(graph_module, producer), delta_node(graph_module, node)
    assert first is not None
    assert second is not None
    args = list(producer.args)
    operands: list[int | None] = []
    for arg in node.args:
        if arg is producer:
            operands.append(None)
        else:
            args.append(arg)
            operands.append(len(args) - 1)
    first.stages.append(Stage(second.head, operands))
    first.fused_from = (*first.fused_from, *second.fused_from)
    with graph_module.graph.inserting_before(node):
        fused = graph_module.graph.call_module(str(producer.target), tuple(args))
    fused.meta = dict(producer.meta)
    node.replace_all_uses_with(fused)
    graph_module.graph.erase_node(node)
    graph_module.graph.erase_node(producer)
    return fused
