"""Which layers of a frame's program run together, without storing what is between them.

A depthwise convolution that a 1x1 convolution alone reads, and the convolution before it that it alone reads: the
blocks of MobileNets and their kin, whose expanded maps are the largest of the network. In the graph they stay nodes of
their own, and node by node they run as such; after a frame of a program their buffers are out of date, so that they are
refreshed when they run next. What they compute has the same bits either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from deltafx.backends.compiled import decision
from deltafx.backends.cpu.kernel import CompiledKernel
from deltafx.node import OWN, DeltaNode

if TYPE_CHECKING:
    from deltafx.plan import Plan
    from deltafx.state import NodeState

# Bytes of an expanded map from which on it is not stored. A smaller one stays in the caches, and storing it saves
# computing what the windows of updated pixels read besides them.
LEAST_EXPANDED = 6_000_000
MOST_TERMS = 96  # of the expansion's sums: with more, storing is sooner done than computing again


@dataclass(frozen=True)
class Layer:
    """A compiled node of a plan."""

    module: DeltaNode
    state: NodeState
    kernel: CompiledKernel

    @property
    def own_arguments(self) -> tuple[Any, ...]:
        """Weight, bias, and the operands, codes and numbers of its steps."""
        _, weight, bias, *_ = self.kernel.arguments
        return (weight, bias, *self.kernel.steps)


@dataclass(frozen=True)
class Separable:
    """Layers that run together; the last one's map alone is stored."""

    expand: Layer | None
    depthwise: Layer
    project: Layer

    @property
    def layers(self) -> list[Layer]:
        return [layer for layer in (self.expand, self.depthwise, self.project) if layer is not None]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As the program takes them, before those of every kernel."""
        first = self.expand or self.depthwise
        expand = None
        if self.expand is not None:
            expand = (self.expand.own_arguments, *self.expand.kernel.window.arguments)
        tally = None if self.expand is None else self.expand.kernel.leaf.tally
        weight, bias = self.project.own_arguments[:2]
        window = self.depthwise.kernel.window.arguments
        return (first.kernel.arguments[0], expand, tally, self.depthwise.own_arguments, weight, bias, *window)

    def append_to(self, program: Any, layer: Layer, plan: Plan) -> None:
        """Prepare what one of the layers has to do, as a node of a program. Those within only pass their masks on."""
        kernel, state = layer.kernel, layer.state
        program.begin_node(kernel.flags.count(plan), state.aligned, kernel.leaf.pixels)
        if layer is self.project:
            kernel.append_as("separable", self.arguments, program, state, plan)
        else:
            decision(layer.module.truncation, state, kernel.leaf, plan)  # notes the threshold
            kernel.collect.append_to(program, moves=True)


def separables(graph_module: fx.GraphModule, plan: Plan) -> Iterator[Separable]:
    """Those of a plan, in order; no layer is in two of them: what projects in one does not expand in the next."""
    layers = dict(layers_of(graph_module, plan))
    projecting: set[int] = set()
    for node, project in layers.items():
        depthwise = before(node, layers, plan)
        if depthwise is None or not is_pointwise(project) or depthwise.kernel.name != "depthwise":
            continue
        expand = before(node.all_input_nodes[0], layers, plan)
        if expand is not None and (id(expand.state) in projecting or not pays_anew(expand)):
            expand = None
        projecting.add(id(project.state))
        yield Separable(expand, depthwise, project)


def layers_of(graph_module: fx.GraphModule, plan: Plan) -> Iterator[tuple[fx.Node, Layer]]:
    for node in graph_module.graph.find_nodes(op="call_module"):
        module: Any = graph_module.get_submodule(str(node.target))
        state = plan.nodes.get(module.path) if isinstance(module, DeltaNode) else None
        if state is not None and isinstance(state.kernel, CompiledKernel):
            yield node, Layer(module, state, state.kernel)


def before(node: fx.Node, layers: dict[fx.Node, Layer], plan: Plan) -> Layer | None:
    """The layer that a node convolves, if nobody else needs what it gives and nothing of that is withheld."""
    source = node.args[0]
    if not isinstance(source, fx.Node) or source not in layers:
        return None
    if len(source.users) != 1 or list(node.args).count(source) != 1:
        return None
    layer = layers[source]
    kernel = layer.kernel
    if layer.module.storage != OWN or not kernel.leaf.own or kernel.leaf.strip is not None:
        return None
    if plan.withholds(layer.module) or kernel.step_sources or not layer.state.aligned:
        return None
    return layer if kernel.dense_above >= kernel.leaf.pixels else None


def is_pointwise(layer: Layer) -> bool:
    """Whether it is a 1x1 convolution that runs densely in no frame."""
    kernel = layer.kernel
    if kernel.name != "convolve" or kernel.arguments[3] != 1 or kernel.dense_above < kernel.leaf.pixels:
        return False
    rows, columns, in_rows, in_columns = kernel.window.arguments
    return is_counting(rows, in_rows) and is_counting(columns, in_columns) and layer.state.aligned


def is_counting(table: Tensor, size: int) -> bool:
    return table.shape == (size, 1) and bool((table[:, 0] == torch.arange(size)).all())


def pays_anew(layer: Layer) -> bool:
    """Whether what a convolution gives is better computed anew than stored."""
    kernel = layer.kernel
    if kernel.name != "convolve" or kernel.arguments[3] != 1 or not layer.state.aligned:
        return False
    terms = kernel.window.taps * kernel.arguments[0].shape[1]
    return kernel.leaf.bytes >= LEAST_EXPANDED and terms <= MOST_TERMS
