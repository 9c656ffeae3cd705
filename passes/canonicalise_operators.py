"""One canonical node per operator, whatever its spelling: module, function or method.

Every node that computes on tensors becomes the call of an `Op` (see deltafx/ops), with weights of its own over the
caller's storage. Shape arithmetic stays as it is. What no operator knows becomes a dense island with a reason.
"""

from __future__ import annotations

import builtins
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from deltafx import ops
from deltafx.errors import ConvertError
from deltafx.ops.base import Op, Slot
from deltafx.ops.island import island_of_function, island_of_module
from deltafx.passes.context import Context, constant_of, draws_random_numbers, leaf_module, place_module, remove_unread
from deltafx.watched import has_hooks

CALLS = ("call_module", "call_function", "call_method")
# What a delta answers as its tensor would.
SHAPE_METHODS = ("size", "dim", "ndimension", "numel", "nelement", "is_floating_point")
SHAPE_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "is_cuda")
HOST_MODULES = ("_operator", "operator", "math", "builtins")


def canonicalise_operators(graph_module: fx.GraphModule, context: Context) -> int:
    graph = graph_module.graph
    host = host_nodes(graph)
    modules = {node: leaf_module(graph_module, node) for node in graph.nodes}
    spelled = [n for n in graph.nodes if n.op in CALLS and n not in host and not isinstance(modules[n], Op)]
    for node in spelled:
        if node.op == "call_module":
            graph_module.delete_submodule(str(node.target))  # its place is for the operator
    live = live_nodes(graph, host)
    for node in spelled:
        op, inputs = build_operator(graph_module, node, modules[node], node in live, context)
        with graph.inserting_before(node):
            call = graph.call_module(place_module(graph_module, node.meta["path"], op), tuple(inputs))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    return len(spelled) + remove_unread(graph)  # weights are the operators' own now


def host_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that give numbers, shapes and containers, not tensors: Python runs them, in every frame."""
    host: set[fx.Node] = set()
    for node in graph.nodes:
        sources = node.all_input_nodes
        if node.op == "call_method":
            shape = node.target in SHAPE_METHODS
        elif node.op == "call_function":
            shape = node.target is builtins.getattr and node.args[1] in SHAPE_ATTRIBUTES
            shape = shape or node.target is builtins.len or constructs_container(node.target)
            plain = getattr(node.target, "__module__", "") in HOST_MODULES or node.target in (math.floor, torch.Size)
            shape = shape or (plain and bool(sources) and all(source in host for source in sources))
        else:
            continue
        if shape:
            host.add(node)
    return host


def constructs_container(target: Any) -> bool:
    """A NamedTuple, dataclass or OrderedDict that the model builds for its output."""
    return isinstance(target, type) and (issubclass(target, (tuple, dict)) or hasattr(target, "__dataclass_fields__"))


def live_nodes(graph: fx.Graph, host: set[fx.Node]) -> set[fx.Node]:
    """Nodes whose tensors depend on the frame, by more than its shape."""
    live: set[fx.Node] = set()
    for node in graph.nodes:
        computes = node not in host or constructs_container(node.target)
        if node.op == "placeholder" or (computes and any(source in live for source in node.all_input_nodes)):
            live.add(node)
    return live


def build_operator(
    graph_module: fx.GraphModule, node: fx.Node, module: nn.Module | None, live: bool, context: Context
) -> tuple[Op, list[fx.Node]]:
    """The operator of a node, and the nodes it is called with."""
    args, kwargs, inputs = template(node)
    function = function_of(node)
    name = type(module).__name__ if module is not None else getattr(function, "__name__", str(node.target))
    known = known_operator(graph_module, node, module, function, args, kwargs, inputs)
    wanted = kept_dense(node, {name, known[0].name, known[0].spelling} if isinstance(known, tuple) else {name}, context)
    if isinstance(known, tuple) and not wanted:
        return known
    reason = "named in keep_dense" if wanted else str(known)
    if not live:  # computed when a plan is filled; but new random numbers are drawn in every frame
        wanted, reason = True, "it does not depend on the frame"
        if draws_random_numbers(name):
            wanted, reason = False, "it draws random numbers"
            inputs = [*inputs, *graph_module.graph.find_nodes(op="placeholder")][: len(inputs) + 1]
    if module is not None:
        return island_of_module(module, args, kwargs, name, reason, wanted), inputs
    return island_of_function(function, args, kwargs, name, reason, wanted), inputs


def known_operator(
    graph_module: fx.GraphModule, node: fx.Node, module: nn.Module | None, function: Callable, args: tuple,
    kwargs: dict[str, Any], inputs: list[fx.Node],
) -> tuple[Op, list[fx.Node]] | str:  # fmt: skip
    """The operator that is known for a node and the nodes it is called with, or why there is none."""
    if module is not None:
        return operator_of_module(module, args, kwargs, inputs)
    method = node.op == "call_method"
    family = ops.METHODS.get(str(node.target)) if method else ops.operator_of_function(function)
    if family is None:
        return "no operator is known for it"
    if hasattr(family, "from_weights"):
        return operator_with_weights(graph_module, node, family)
    return family(function, args, kwargs), inputs


def operator_of_module(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], inputs: list[fx.Node]
) -> tuple[Op, list[fx.Node]] | str:
    family = ops.operator_of_module(module)
    if family is None:
        return f"no operator is known for {type(module).__name__}"
    if has_hooks(module):
        return "it has hooks, which may do anything"
    if not called_with_one_tensor(args, kwargs):
        return "it is called with more than one argument"
    op = family.from_module(module)
    return (op, inputs) if op is not None else "it normalises with the statistics of the batch"


def called_with_one_tensor(args: tuple, kwargs: dict[str, Any]) -> bool:
    return len(args) + len(kwargs) == 1 and all(isinstance(a, Slot) for a in (*args, *kwargs.values()))


def operator_with_weights(graph_module: fx.GraphModule, node: fx.Node, family: Any) -> tuple[Op, list[fx.Node]] | str:
    """`F.conv2d(x, weight, bias, ...)` whose arguments, but for x, are constants."""
    kwargs = dict(node.kwargs)
    source: Any
    source, *args = node.args or (kwargs.pop("input", None),)
    call = inspect.signature(family.from_weights).bind(*args, **kwargs)

    def constant(argument: fx.Node) -> Any:
        value = constant_of(graph_module, argument)
        return argument if value is None else value

    call.arguments.update(fx.node.map_arg(call.arguments, constant))
    if any(isinstance(leaf, fx.Node) for leaf in pytree.tree_leaves(call.arguments)):
        return "its weights or options are computed from the frame"
    op = family.from_weights(*call.args, **call.kwargs)
    return (op, [source]) if op is not None else "it normalises with the statistics of the batch"


def template(node: fx.Node) -> tuple[tuple, dict[str, Any], list[fx.Node]]:
    """The call's arguments with every node replaced by a Slot, and the nodes in the order of their slots."""
    inputs: list[fx.Node] = []

    def slot(argument: fx.Node) -> Any:
        inputs.append(argument)
        return Slot(len(inputs) - 1)

    args = fx.node.map_arg(node.args, slot)
    return args, fx.node.map_arg(node.kwargs, slot), inputs


def function_of(node: fx.Node) -> Any:
    """The function that a call of a function or method calls."""
    if node.op == "call_method" and not hasattr(Tensor, str(node.target)):
        raise ConvertError(f"{node.meta['path']}: torch.Tensor has no method {node.target!r}.")
    return getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target


def kept_dense(node: fx.Node, names: set[str], context: Context) -> bool:
    """Whether `keep_dense` names this node, a module it stands in, or its operator."""
    path = node.meta["path"]
    parts = path.split(".")
    places = {".".join(parts[: i + 1]) for i in range(len(parts))} | {path.split("#")[0]}
    hits = (names | places).intersection(context.settings.keep_dense)
    context.used_names |= hits
    return bool(hits)
