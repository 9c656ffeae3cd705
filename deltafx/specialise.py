"""Filling a plan: one dense run that looks, and one pass over the graph that gives out the buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from deltafx.errors import FrameError
from deltafx.node import VIEW, DeltaNode, DeltaToDense, DenseToDelta, SliceOf
from deltafx.ops import Concat
from deltafx.plan import Plan
from deltafx.state import Leaf, NodeState


def specialise(graph_module: fx.GraphModule, plan: Plan, inputs: Sequence[Any], max_state_bytes: int | None) -> None:
    """Fill `plan` for frames like `inputs` (one value for each placeholder); nothing is allocated if it is too large."""
    DenseRun(graph_module, plan).run(*inputs)
    plan.predicted_bytes = sum(
        leaf.bytes for node in plan.nodes.values() for leaf in node.leaves if not leaf.aliased
    )
    if max_state_bytes is not None and plan.predicted_bytes > max_state_bytes:
        raise FrameError(
            f"the state for frames of this shape takes {plan.predicted_bytes:,} bytes; options={{'max_state_bytes': "
            f"{max_state_bytes}}} allows less. Use smaller frames, fewer streams or a smaller dtype."
        )
    BindBuffers(graph_module, plan).run(*inputs)


class GraphWalk(fx.Interpreter):
    """What both passes share: the leaf module behind a node."""

    def __init__(self, graph_module: fx.GraphModule, plan: Plan):
        super().__init__(graph_module)
        self.plan = plan

    def leaf_module(self, node: Any) -> Any:
        if isinstance(node, fx.Node) and node.op == "call_module":
            return self.module.get_submodule(node.target)  # type: ignore[arg-type]
        return None

    def inputs_of(self, node: fx.Node) -> list[Any]:
        return [self.env[a] if isinstance(a, fx.Node) else a for a in node.args]


class DenseRun(GraphWalk):
    """Runs the graph densely on the first frame and notes shapes, MACs, constants, and what has no mask rule."""

    def __init__(self, graph_module: fx.GraphModule, plan: Plan):
        super().__init__(graph_module, plan)
        self.live: dict[fx.Node, bool] = {}  # carries tensors that depend on the frame
        self.aligned: dict[fx.Node, bool] = {}  # their dimension 0 is the streams
        self.flops = FlopCounterMode(display=False)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        with self.flops:
            return super().run(*args, **kwargs)

    def run_node(self, n: fx.Node) -> Any:
        module = self.leaf_module(n)
        sources = n.all_input_nodes
        versions = [version(self.env[source]) for source in sources]
        flops = self.flops.get_total_flops()
        result = super().run_node(n)
        if isinstance(module, DeltaNode) and versions != [version(self.env[source]) for source in sources]:
            raise FrameError(
                f"{module.path}: {module.operator} changes its input in place where deltafx cannot see it, so a "
                f"remembered value would be lost. Make it work on a copy (x = x.clone())."
            )
        tensors = tensors_in(result)
        self.live[n] = bool(tensors) and (
            isinstance(module, DenseToDelta) or any(self.live[source] for source in sources)
        )
        self.aligned[n] = all(self.aligned[source] for source in sources if self.live[source]) and all(
            self.plan.has_streams(tensor.shape) for tensor in tensors
        )
        if isinstance(module, DeltaNode):
            self.note(n, module, result, tensors)
        elif isinstance(module, (DenseToDelta, DeltaToDense)):
            kept = tensors if isinstance(module, DenseToDelta) else []
            state = NodeState(module.path, [new_leaf(t) for t in kept], self.aligned[n])
            self.plan.nodes[module.path] = state
            if isinstance(module, DenseToDelta):
                self.plan.inputs.append(state)
        if module is not None and module.path in self.plan.nodes:
            self.plan.nodes[module.path].macs = (self.flops.get_total_flops() - flops) // 2
        return result

    def note(self, n: fx.Node, node: DeltaNode, result: Any, tensors: list[Tensor]) -> None:
        inputs = self.inputs_of(n)
        if not any(self.live[source] for source in n.all_input_nodes):
            if tensors:
                self.plan.constants[node.path] = result
            return
        if node.picks(inputs):
            return
        if not tensors:
            raise FrameError(
                f"{node.path}: {node.operator} turns the frame into {type(result).__name__}, not a tensor; what "
                f"follows cannot know when it changes. Keep it a tensor (no .item(), .tolist(), int() or float())."
            )
        state = NodeState(node.path, [new_leaf(t) for t in tensors], aligned=self.aligned[n])
        self.plan.nodes[node.path] = state
        self.examine(n, node, inputs, state)
        self.aligned[n] = state.aligned
        state.dense = node.island is not None or state.reason is not None
        storages = {storage_of(x) for x in tensors_in(inputs)}
        for leaf, tensor in zip(state.leaves, tensors, strict=True):
            leaf.aliased = node.storage == VIEW and storage_of(tensor) in storages

    def examine(self, n: fx.Node, node: DeltaNode, inputs: list[Any], state: NodeState) -> None:
        """Ask every stage whether its mask rule holds for these inputs and whether it keeps the streams apart."""
        carries = [isinstance(a, fx.Node) and self.live[a] for a in n.args]
        value: Any = None
        chain = False
        for stage in node.stages:
            operands, alive = stage.pick(inputs, value), stage.pick(carries, chain)
            nested = any(isinstance(x, (tuple, list, dict)) and tensors_in(x) for x in operands)
            if nested and not stage.op.takes_nests and node.island is None:
                state.reason = "its inputs come as one tuple"
            state.reason = state.reason or stage.op.refusal(operands)
            if state.reason is not None or stage.op.mixes_streams(operands):
                state.aligned = False
            if state.reason is not None:
                return
            value, chain = stage.op(*operands), any(alive)
            if stage.op.locality == "pointwise":  # a tensor of smaller rank broadcasts along the streams
                ranks = [x.dim() for x, live in zip(operands, alive, strict=True) if live and isinstance(x, Tensor)]
                state.aligned = state.aligned and all(rank == value.dim() for rank in ranks)


class BindBuffers(GraphWalk):
    """Gives every node its buffers. Each node yields the buffers it will hold, so that views are taken of them."""

    def run_node(self, n: fx.Node) -> Any:
        module = self.leaf_module(n)
        path = getattr(module, "path", None)
        if path in self.plan.constants:
            return self.plan.constants[path]
        state = self.plan.nodes.get(path)  # type: ignore[arg-type]
        if state is None or isinstance(module, DeltaToDense):
            return super().run_node(n)
        if isinstance(module, DenseToDelta):
            return fill(self.env[n.all_input_nodes[0]], [allocate(leaf) for leaf in state.leaves])
        inputs = self.inputs_of(n)
        if module.storage == VIEW or module.island is not None or len(state.leaves) > 1:
            result = module.dense(*inputs)
            self.bind_views(module, state, inputs, tensors_in(result))
            return fill(result, [leaf.value for leaf in state.leaves])
        (leaf,) = state.leaves
        if isinstance(module.storage, SliceOf):
            leaf.value = self.slice_of(n, module.storage, leaf)
        if leaf.value is None:
            allocate(leaf)
        if type(module.head) is Concat and len(module.stages) == 1 and not isinstance(module.storage, SliceOf):
            # Operands that all stand in its buffer leave nothing to copy.
            leaf.aliased = all(isinstance(x, Tensor) and storage_of(x) == storage_of(leaf.value) for x in inputs)
        return leaf.value

    def bind_views(self, node: DeltaNode, state: NodeState, inputs: list[Any], tensors: list[Tensor]) -> None:
        storages = {storage_of(x) for x in tensors_in(inputs)}
        for leaf, tensor in zip(state.leaves, tensors, strict=True):
            leaf.aliased = node.storage == VIEW and storage_of(tensor) in storages
            if leaf.aliased:
                leaf.value = tensor
            else:
                allocate(leaf)

    def slice_of(self, n: fx.Node, storage: SliceOf, part: Leaf) -> Tensor | None:
        """The part of a concatenation's buffer from which this node is read, where shapes and dtypes allow it."""
        (user,) = [u for u in n.users if getattr(self.leaf_module(u), "path", None) == storage.path]
        target = self.plan.nodes[storage.path]
        whole = target.leaves[0]
        if target.reason is not None or whole.dtype != part.dtype or len(whole.shape) != len(part.shape):
            return None
        dim = self.leaf_module(user).head.dim(len(whole.shape))
        before = user.args[: user.args.index(n)]
        offset = sum(self.shape_of(operand)[dim] for operand in before)
        buffer = allocate(whole) if whole.value is None else whole.value
        return buffer.narrow(dim, offset, part.shape[dim])

    def shape_of(self, operand: Any) -> torch.Size:
        state = self.plan.nodes.get(getattr(self.leaf_module(operand), "path", None))  # type: ignore[arg-type]
        return state.leaves[0].shape if state is not None else self.env[operand].shape


def new_leaf(tensor: Tensor) -> Leaf:
    return Leaf(shape=tensor.shape, dtype=tensor.dtype, device=tensor.device, stride=tensor.stride())


def allocate(leaf: Leaf) -> Tensor:
    """A buffer whose dimensions lie in the order in which the dense operator laid out its result."""
    order = sorted(range(len(leaf.shape)), key=lambda d: (-leaf.stride[d], d))
    dense = torch.zeros([leaf.shape[d] for d in order], dtype=leaf.dtype, device=leaf.device)
    leaf.value = dense.permute([order.index(d) for d in range(len(order))])
    return leaf.value


def fill(nest: Any, tensors: Sequence[Any]) -> Any:
    """The nest with its tensors replaced, in order."""
    values = iter(tensors)
    return pytree.tree_map_only(Tensor, lambda _: next(values), nest)


def tensors_in(nest: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)]


def version(nest: Any) -> list[int]:
    return [tensor._version for tensor in tensors_in(nest) if not tensor.is_inference()]


def storage_of(tensor: Tensor | None) -> int:
    assert tensor is not None
    return tensor.untyped_storage().data_ptr()
