"""What a pass is given beside the graph, and small helpers that several passes need."""

from __future__ import annotations

from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, fx, nn

from deltafx.node import DeltaNode
from deltafx.ops.base import borrow
from deltafx.settings import Settings


@dataclass
class Context:
    """The settings of this conversion, and which names there are for the user to use."""

    settings: Settings
    used_names: set[str] = field(default_factory=set)  # of `keep_dense`, those that matched something
    paths: set[str] = field(default_factory=set)  # of nodes
    truncation_points: set[str] = field(default_factory=set)
    fingerprint: dict[str, dict[str, Any]] = field(default_factory=dict)  # of truncation points, for a calibration


def leaf_module(graph_module: fx.GraphModule, node: Any) -> nn.Module | None:
    """The module a `call_module` node calls, else None."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return graph_module.get_submodule(str(node.target))
    return None


def delta_node(graph_module: fx.GraphModule, node: Any) -> DeltaNode | None:
    module = leaf_module(graph_module, node)
    return module if isinstance(module, DeltaNode) else None


def called_name(node: fx.Node) -> str:
    """What a node calls: the path of a module, or the name of a method or function, which may have none."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def constant_of(graph_module: nn.Module, node: Any) -> Tensor | None:
    """The tensor a `get_attr` node reads, else None."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = graph_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def place_module(root: nn.Module, path: str, module: nn.Module) -> str:
    """Put `module` at `path`, or beside it where the name is taken or means something to the root; say where."""
    *parents, name = path.split(".")
    holder, place = root, []
    for part in parents:
        while iskeyword(part) or (hasattr(holder, part) and not is_container(holder._modules.get(part))):
            part += "_"
        if part not in holder._modules:
            holder.add_module(part, nn.Module())
        holder = holder.get_submodule(part)
        place.append(part)
    name = free_name(holder, name)
    holder.add_module(name, module)
    return ".".join([*place, name])


def is_container(module: nn.Module | None) -> bool:
    """Whether a module only holds others, as those that `place_module` makes."""
    return type(module) is nn.Module


def free_name(holder: nn.Module, name: str) -> str:
    while hasattr(holder, name) or iskeyword(name):  # `or` and `and` are functions' names; no code can spell self.or
        name += "_"
    return name


def replace_module(graph_module: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """The node, which alone calls its module, calls another one from now on."""
    parent, _, name = str(node.target).rpartition(".")
    graph_module.get_submodule(parent)._modules[name] = module


def place_constant(root: nn.Module, path: str, tensor: Tensor) -> str:
    """Register a constant of the graph on its root, as a parameter over the same storage, and say where."""
    name = free_name(root, path.replace(".", "_").replace("#", "_"))
    root.register_parameter(name, borrow(tensor))
    return name


def draws_random_numbers(function: str) -> bool:
    """Whether the function of this name does, by what PyTorch says of its operators."""
    packets = [getattr(torch.ops.aten, name, None) for name in (function, f"{function}_")]
    overloads = [getattr(packet, name) for packet in packets if packet is not None for name in packet.overloads()]
    return any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads)


def remove_unread(graph: fx.Graph) -> int:
    """Remove nodes that nothing reads: no operator of a graph without in-place writes has side effects."""
    count = 0
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
            count += 1
    return count
