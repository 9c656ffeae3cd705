"""Giving out the buffers of a plan that was surveyed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from deltafx.delta import tensors_in
from deltafx.graph_walk import GraphWalk, storage_of
from deltafx.node import VIEW, DeltaNode, DeltaToDense, DenseToDelta
from deltafx.ops import Concat
from deltafx.plan import Plan
from deltafx.state import Leaf, NodeState


def bind_buffers(graph_module: fx.GraphModule, plan: Plan, inputs: Sequence[Any]) -> None:
    """Allocate the state of a plan that was surveyed, then give every node the kernel that works on it."""
    walk = BindBuffers(graph_module, plan)
    walk.run(*inputs)
    for module in graph_module.modules():
        join_background(plan, module)
    for node in graph_module.graph.find_nodes(op="call_module"):
        module = walk.leaf_module(node)
        state = plan.nodes.get(module.path)
        if state is not None:
            state.bind(module.backend.bind(module, state, fx.node.map_arg(node.args, walk.nests.get), plan))


def join_background(plan: Plan, module: Any) -> None:
    """Let a node that withholds changes take part in the background refresh."""
    state = plan.nodes.get(module.path) if isinstance(module, (DeltaNode, DenseToDelta)) else None
    if state is None or plan.background is None:
        return
    for leaf in state.leaves:
        if isinstance(module, DenseToDelta):
            if module.gate is not None and len(leaf.shape) == 4 and plan.has_streams(leaf.shape):
                plan.background.add(leaf, 0.0, forgets=False)
        elif plan.withholds(module) and not leaf.aliased and leaf.dtype.is_floating_point:
            plan.background.add(leaf, state.lag, forgets=True)


class BindBuffers(GraphWalk):
    """Gives every node its buffers. Each node yields the buffers it will hold, so that views are taken of them.

    `nests` has for each node what its readers are bound to: its output with a Leaf for each tensor that depends on the
    frame.
    """

    def __init__(self, graph_module: fx.GraphModule, plan: Plan):
        super().__init__(graph_module, plan)
        self.nests: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        module = self.leaf_module(n)
        result = self.buffers_of(n, module)
        state = self.plan.nodes.get(module.path) if module is not None else None
        if state is not None:
            self.nests[n] = state.nest
        elif isinstance(module, DeltaNode) and module.path not in self.plan.constants:
            self.nests[n] = module.dense(*fx.node.map_arg(n.args, self.nests.get))
        else:
            self.nests[n] = result
        return result

    def buffers_of(self, n: fx.Node, module: Any) -> Any:
        path = getattr(module, "path", None)
        if path in self.plan.constants:
            return self.plan.constants[path]
        state = self.plan.nodes.get(path)  # type: ignore[arg-type]
        if state is None or isinstance(module, DeltaToDense):
            return super().run_node(n)
        inputs = self.inputs_of(n)
        if isinstance(module, DeltaNode) and module.storage == VIEW:
            self.bind_views(state, inputs, tensors_in(module.dense(*inputs)))
        for leaf in state.leaves:
            leaf.allocate_mask()
            self.buffer(n, leaf)
        joins = isinstance(module, DeltaNode) and type(module.head) is Concat and len(module.stages) == 1
        if joins and state.reason is None and all(isinstance(x, Tensor) for x in inputs):
            (leaf,) = state.leaves  # operands that all stand in their places leave nothing to copy
            leaf.aliased = all(stands_at(x, self.part(n, i, x.shape)) for i, x in enumerate(inputs))
        buffers = pytree.tree_map_only(Leaf, lambda leaf: leaf.value, state.nest)
        if not state.keeps_value:
            for leaf in state.leaves:
                leaf.value = None
        return buffers

    def bind_views(self, state: NodeState, inputs: list[Any], tensors: list[Tensor]) -> None:
        storages = {storage_of(x) for x in tensors_in(inputs)}
        for leaf, tensor in zip(state.leaves, tensors, strict=True):
            leaf.aliased = storage_of(tensor) in storages
            leaf.value = tensor if leaf.aliased else None

    def buffer(self, n: fx.Node, leaf: Leaf) -> Tensor:
        """An output's buffer: its own, or a part of that of a concatenation, which may be a part of another's."""
        if leaf.value is None:
            target = self.slice_of(n, leaf)
            if target:
                leaf.value = self.part(target, target.args.index(n), leaf.shape)
            else:
                leaf.value, leaf.own = leaf.allocate(), True
        return leaf.value

    def part(self, concat: fx.Node, index: int, shape: torch.Size) -> Tensor:
        """The part of a concatenation's buffer from which operand number `index` is read."""
        module = self.leaf_module(concat)
        state = self.plan.nodes[module.path]
        dim = module.head.dim(len(shape))
        before = sum(operand[dim] for operand in state.operands[:index])
        return self.buffer(concat, state.leaves[0]).narrow(dim, before, shape[dim])


def stands_at(tensor: Any, place: Tensor) -> bool:
    return isinstance(tensor, Tensor) and tensor.data_ptr() == place.data_ptr() and tensor.stride() == place.stride()
