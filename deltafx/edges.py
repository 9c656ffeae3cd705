"""Who reads from whom among the nodes of converted graphs, by their paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.state import NodeState

if TYPE_CHECKING:
    from deltafx.plan import Plan


@dataclass(frozen=True)
class Edges:
    """The nodes of a graph in order, the paths that each reads, and those whose result the caller gets."""

    modules: list[DeltaNode | DenseToDelta]
    inputs: dict[str, tuple[str, ...]]
    returned: set[str]


def edges_of(graph_module: fx.GraphModule) -> Edges:
    """Shape arithmetic between the nodes is looked through."""
    edges = Edges([], {}, set())
    sources: dict[fx.Node, tuple[str, ...]] = {}
    for node in graph_module.graph.nodes:
        module = module_of(graph_module, node)
        read = tuple(dict.fromkeys(path for source in node.all_input_nodes for path in sources[source]))
        sources[node] = read
        if isinstance(module, (DeltaNode, DenseToDelta)):
            edges.modules.append(module)
            edges.inputs[module.path] = read
            sources[node] = (module.path,)
        elif isinstance(module, DeltaToDense):
            edges.returned.update(read)
    return edges


def module_of(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def senders(plan: Plan, name: Any) -> dict[int, str]:
    """Which node a mask is of, by the mask's identity: a tensor that goes to another graph takes it along."""
    return {id(leaf.mask): name(path) for path, state in plan.nodes.items() for leaf in state.leaves}


def handed_from(state: NodeState, known: dict[int, str]) -> tuple[str, ...]:
    """The nodes of other graphs that an input was given its last tensors by."""
    masks = [leaf.follower.mask for leaf in state.leaves]
    return tuple(dict.fromkeys(known[id(mask)] for mask in masks if mask is not None and id(mask) in known))
