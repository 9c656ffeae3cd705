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

from deltafx import ops
from deltafx.errors import ConvertError
from deltafx.ops.base import Op, Slot
from deltafx.ops.island import island_of_function, island_of_module
from deltafx.passes.context import Context, constant_of, leaf_module, place_constant, place_module

SHAPE_METHODS = ("size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "get_device", "is_contiguous")
SHAPE_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "is_cuda")
HOST_MODULES = ("_operator", "operator", "math", "builtins")


def canonicalise_operators(graph_module: fx.GraphModule, context: Context) -> int:
    graph = graph_module.graph
    modules = {node: leaf_module(graph_module, node) for node in graph.nodes}
    for node in graph.find_nodes(op="get_attr"):
        node.target = lift_constant(graph_module, node)
    host = host_nodes(graph)
    count = 0
    for node in list(graph.nodes):
        if node.op not in ("call_module", "call_function", "call_method") or node in host:
            continue
        op, inputs = build_operator(graph_module, node, modules[node], context)
        with graph.inserting_before(node):
            target = place_module(graph_module, node.meta["path"], op)
            call = graph.call_module(target, tuple(inputs))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)
        count += 1
    return count


def lift_constant(graph_module: fx.GraphModule, node: fx.Node) -> str:
    constant = constant_of(graph_module, node)
    if constant is None:
        raise ConvertError(f"{node.meta['path']}: the graph reads an attribute that is not a tensor.")
    return place_constant(graph_module, str(node.target), constant)


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
    return isinstance(target, type) and (
        issubclass(target, (tuple, dict)) or hasattr(target, "__dataclass_fields__")
    )


def build_operator(
    graph_module: fx.GraphModule, node: fx.Node, module: nn.Module | None, context: Context
) -> tuple[Op, list[fx.Node]]:
    """The operator of a node, and the nodes it is called with."""
    args, kwargs, inputs = template(node)
    function = function_of(node)
    wanted = kept_dense(node, module, function, context)
    name = operator_name(node, module, function)

    def island(reason: str) -> tuple[Op, list[fx.Node]]:
        if module is not None:
            return island_of_module(module, args, kwargs, name, reason, wanted), inputs
        assert function is not None
        return island_of_function(function, args, kwargs, name, reason, wanted), inputs

    if wanted:
        return island("named in keep_dense")
    if module is not None:
        return operator_of_module(module, args, kwargs, inputs) or island(refusal_of_module(module, args, kwargs))
    if function is None:
        raise ConvertError(f"{node.meta['path']}: torch.Tensor has no method {node.target!r}.")
    family = ops.METHODS.get(str(node.target)) if node.op == "call_method" else ops.FUNCTIONS.get(function)
    if family is None:
        return island("no operator is known for it")
    if hasattr(family, "from_weights"):
        return operator_with_weights(graph_module, node, family) or island("its weights are not constants")
    return family(function, args, kwargs), inputs


def operator_of_module(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], inputs: list[fx.Node]
) -> tuple[Op, list[fx.Node]] | None:
    family = ops.operator_of_module(module)
    if family is None or has_hooks(module) or not called_with_one_tensor(args, kwargs):
        return None
    op = family.from_module(module)
    return (op, inputs) if op is not None else None


def refusal_of_module(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> str:
    if ops.operator_of_module(module) is None:
        return f"no operator is known for {type(module).__name__}"
    if has_hooks(module):
        return "it has hooks, which may do anything"
    if not called_with_one_tensor(args, kwargs):
        return "it is called with more than one argument"
    return "it normalises with the statistics of the batch"


def has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def called_with_one_tensor(args: tuple, kwargs: dict[str, Any]) -> bool:
    return len(args) + len(kwargs) == 1 and all(isinstance(a, Slot) for a in (*args, *kwargs.values()))


def operator_with_weights(
    graph_module: fx.GraphModule, node: fx.Node, family: Any
) -> tuple[Op, list[fx.Node]] | None:
    """`F.conv2d(x, weight, bias, ...)` whose arguments, but for x, are constants."""
    kwargs = dict(node.kwargs)
    source, *args = node.args or (kwargs.pop("input", None),)
    call = inspect.signature(family.from_weights).bind(*args, **kwargs)
    for name, value in call.arguments.items():
        if isinstance(value, fx.Node):
            call.arguments[name] = constant_of(graph_module, value)
            if call.arguments[name] is None:
                return None
    op = family.from_weights(*call.args, **call.kwargs)
    return (op, [source]) if op is not None and isinstance(source, fx.Node) else None


def template(node: fx.Node) -> tuple[tuple, dict[str, Any], list[fx.Node]]:
    """The call's arguments with every node replaced by a Slot, and the nodes in the order of their slots."""
    inputs: list[fx.Node] = []

    def slot(argument: fx.Node) -> Any:
        inputs.append(argument)
        return Slot(len(inputs) - 1)

    args = fx.node.map_arg(node.args, slot)
    return args, fx.node.map_arg(node.kwargs, slot), inputs


def function_of(node: fx.Node) -> Callable | None:
    if node.op == "call_method":
        return getattr(Tensor, str(node.target), None)
    return node.target if callable(node.target) else None


def operator_name(node: fx.Node, module: nn.Module | None, function: Callable | None) -> str:
    return type(module).__name__ if module is not None else getattr(function, "__name__", str(node.target))


def kept_dense(node: fx.Node, module: nn.Module | None, function: Callable | None, context: Context) -> bool:
    """Whether `keep_dense` names this node, a module it stands in, or its operator."""
    path = node.meta["path"]
    parts = path.split(".")
    names = {".".join(parts[: i + 1]) for i in range(len(parts))}
    names |= {operator_name(node, module, function), path.split("#")[0]}
    hits = names.intersection(context.settings.keep_dense)
    context.used_names |= hits
    return bool(hits)
