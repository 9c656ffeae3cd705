"""Looking into the leaf modules of a graph that was captured by somebody else.

Converters from other formats (onnx2torch) and other tracers leave calls of modules of their own in the graph, whose
forward is a function or two: an addition, a concatenation, a resize.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx, nn

from deltafx.errors import ConvertError, NoGraph
from deltafx.ops import operator_of_module
from deltafx.passes.context import constant_of, place_constant, place_module
from deltafx.signature import Signature
from deltafx.watched import has_hooks

NEEDS_SIZES = ("onnx2torch.",)  # libraries whose modules take sizes and numbers of inputs as they come


def inline_leaves(graph_module: fx.GraphModule, capture: Callable[[nn.Module], fx.GraphModule]) -> None:
    """Replace the calls of modules that no operator knows by their own graphs, where they have one.

    What cannot be traced, or has hooks, stays as it is and becomes a dense island later. Raises NoGraph where sizes are
    all that is missing, which the first frame will tell.
    """
    for node in list(graph_module.graph.find_nodes(op="call_module")):
        module = graph_module.get_submodule(str(node.target))
        if operator_of_module(module) is not None or is_of_torch(module):
            continue
        if has_hooks(module):
            continue
        try:
            inside = capture(module)
            arguments = Signature.of(inside.graph).bind(node.args, dict(node.kwargs))
        except (ConvertError, TypeError, ValueError) as error:
            if type(module).__module__.startswith(NEEDS_SIZES):
                raise NoGraph(f"{node.meta['path']}: the graph computes with the sizes of its frames") from error
            continue
        inline(graph_module, node, inside, arguments)
    graph_module.delete_all_unused_submodules()


def is_of_torch(module: nn.Module) -> bool:
    """Whether it is PyTorch's own: a leaf by intention, as attention is."""
    return type(module).__module__.startswith(torch.nn.__name__ + ".")


def inline(graph_module: fx.GraphModule, node: fx.Node, inside: fx.GraphModule, arguments: list) -> None:
    """Put the nodes of a call's own graph in its place. One that is the only one takes the call's name."""
    path = node.meta["path"]
    (output,) = inside.graph.find_nodes(op="output")
    if not isinstance(output.args[0], fx.Node):
        return
    copies = dict(zip(inside.graph.find_nodes(op="placeholder"), arguments, strict=True))
    calls = [each for each in inside.graph.nodes if each.op.startswith("call_")]
    for each in inside.graph.nodes:
        if each.op in ("placeholder", "output"):
            continue
        with graph_module.graph.inserting_before(node):
            copies[each] = graph_module.graph.node_copy(each, copies.__getitem__)
        copies[each].meta["path"] = path if calls == [each] else f"{path}.{each.meta['path']}"
        if each.op == "call_module":
            module = inside.get_submodule(str(each.target))
            copies[each].target = place_module(graph_module, copies[each].meta["path"], module)
        elif each.op == "get_attr":
            constant = constant_of(inside, each)
            assert constant is not None
            copies[each].target = place_constant(graph_module, copies[each].meta["path"], constant)
    result = copies[output.args[0]]
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
        graph_module.graph.erase_node(node)
