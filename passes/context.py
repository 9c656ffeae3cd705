"""What a pass is given beside the graph, and small helpers that several passes need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from deltafx.node import DeltaNode
from deltafx.ops.base import borrow
from deltafx.settings import Settings


@dataclass
class Context:
    """The settings of this conversion, and what passes leave for the report."""

    settings: Settings
    used_names: set[str] = field(default_factory=set)  # names of the user's that matched something


def leaf_module(graph_module: fx.GraphModule, node: Any) -> nn.Module | None:
    """The module a `call_module` node calls, else None."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return graph_module.get_submodule(str(node.target))
    return None


def delta_node(graph_module: fx.GraphModule, node: Any) -> DeltaNode | None:
    module = leaf_module(graph_module, node)
    return module if isinstance(module, DeltaNode) else None


def constant_of(graph_module: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor a `get_attr` node reads, else None."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = graph_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def place_module(graph_module: fx.GraphModule, path: str, module: nn.Module) -> str:
    """Put `module` at `path`, beside it where the name means something else to nn.Module, and say where."""
    *parents, name = path.split(".")
    holder: nn.Module = graph_module
    place = []
    for part in parents:
        part = free_name(holder, part)
        if part not in holder._modules:
            holder.add_module(part, nn.Module())
        holder = holder.get_submodule(part)
        place.append(part)
    name = free_name(holder, name)
    holder._modules.pop(name, None)
    holder.add_module(name, module)
    return ".".join([*place, name])


def free_name(holder: nn.Module, name: str) -> str:
    while hasattr(holder, name) and name not in holder._modules:
        name += "_"
    return name


def place_constant(graph_module: fx.GraphModule, path: str, tensor: Tensor) -> str:
    """Register a constant of the graph on its root, as a parameter over the same storage, and say where."""
    name = path.replace(".", "_").replace("#", "_")
    while hasattr(graph_module, name):
        name += "_"
    graph_module.register_parameter(name, borrow(tensor))
    return name
