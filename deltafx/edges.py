"""Who reads from whom among the nodes of converted graphs, by their paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.state import NodeState

if TYPE_CHECKING:
    from deltafx.plan import Plan


def module_of(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def inputs_of(graph_module: fx.GraphModule) -> dict[str, tuple[str, ...]]:
    """The paths that each node and each output reads, by its path; shape arithmetic in between is looked through."""
    sources: dict[fx.Node, tuple[str, ...]] = {}
    found = {}
    for node in graph_module.graph.nodes:
        module = module_of(graph_module, node)
        read = tuple(dict.fromkeys(path for source in node.all_input_nodes for path in sources[source]))
        sources[node] = read
        if isinstance(module, (DeltaNode, DenseToDelta, DeltaToDense)):
            found[module.path] = read
            sources[node] = (module.path,)
    return found


def returned_by(graph_module: fx.GraphModule) -> set[str]:
    """The paths of the nodes whose result the caller gets."""
    inputs = inputs_of(graph_module)
    modules = (module_of(graph_module, node) for node in graph_module.graph.nodes)
    return {path for module in modules if isinstance(module, DeltaToDense) for path in inputs[module.path]}


def senders(plan: Plan, name: Any) -> dict[int, str]:
    """Which node a mask is of, by the mask's identity: a tensor that goes to another graph takes it along."""
    return {id(leaf.mask): name(path) for path, state in plan.nodes.items() for leaf in state.leaves}


def handed_from(state: NodeState, known: dict[int, str]) -> tuple[str, ...]:
    """The nodes of other graphs that an input was given its last tensors by."""
    masks = [leaf.follower.mask for leaf in state.leaves]
    return tuple(dict.fromkeys(known[id(mask)] for mask in masks if mask is not None and id(mask) in known))
