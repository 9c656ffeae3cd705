"""One dense run over the first frame of a shape, which notes all that a plan must know of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from deltafx.background import reach
from deltafx.delta import Delta, deltas_in, tensors_in
from deltafx.errors import NoDeltaForm
from deltafx.flops import flop_counter
from deltafx.graph_walk import GraphWalk, storage_of
from deltafx.handover import ATTRIBUTE, handover_of, pixels_of
from deltafx.node import VIEW, DeltaNode, DeltaToDense, DenseToDelta
from deltafx.ops.base import everything
from deltafx.ops.conv import Conv
from deltafx.plan import Plan
from deltafx.state import Leaf, NodeState, mask_bytes, quantizer_of


def survey(graph_module: fx.GraphModule, plan: Plan, inputs: Sequence[Any]) -> None:
    """Note what `plan` must hold for frames like `inputs`, one value for each placeholder; allocates no state."""
    DenseRun(graph_module, plan).run(*pytree.tree_map_only(Tensor, own_copy, list(inputs)))


class DenseRun(GraphWalk):
    """Runs the graph densely on the first frame and notes shapes, MACs, constants, and what has no mask rule."""

    def __init__(self, graph_module: fx.GraphModule, plan: Plan):
        super().__init__(graph_module, plan)
        # What travels along each edge: the result with a Delta, without contents, for each tensor that depends on the
        # frame; and of which node the dimension 0 is the streams.
        self.travels: dict[fx.Node, Any] = {}
        self.aligned: dict[fx.Node, bool] = {}
        self.lags: dict[fx.Node, float] = {}  # for a background refresh, of what depends on the frame
        self.flops = flop_counter()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        with self.flops:
            result = super().run(*args, **kwargs)
        self.plan.predicted_bytes = self.predict()
        return result

    def run_node(self, n: fx.Node) -> Any:
        module = self.leaf_module(n)
        sources = n.all_input_nodes
        versions = [version(self.env[source]) for source in sources]
        numbers = random_state(self.plan.stale.device)
        flops = self.flops.get_total_flops()
        result = super().run_node(n)
        macs = (self.flops.get_total_flops() - flops) // 2  # what follows runs the operator again, to ask about it
        if isinstance(module, DeltaNode) and versions != [version(self.env[source]) for source in sources]:
            raise NoDeltaForm(
                f"{module.path}: {module.operator} changes its input in place where deltafx cannot see it, so a "
                f"remembered value would be lost. Make it work on a copy (x = x.clone())."
            )
        self.aligned[n] = all(self.aligned[source] for source in sources if self.is_live(source)) and all(
            self.plan.has_streams(tensor.shape) for tensor in tensors_in(result)
        )
        if isinstance(module, DenseToDelta):
            self.travels[n] = self.note_input(n, module, result)
            self.lags[n] = 0.0
        elif isinstance(module, DeltaNode):
            draws = random_state(self.plan.stale.device) != numbers
            self.travels[n] = self.note(n, module, result, draws)
        else:
            self.travels[n] = result
        if isinstance(module, DeltaToDense):
            state = NodeState(module.path, aligned=self.aligned[n])
            state.predicted_bytes = bytes_of(accumulated(self.travelling(n)))
            self.plan.nodes[module.path] = state
        if module is not None and module.path in self.plan.nodes:
            state = self.plan.nodes[module.path]
            state.macs = macs
            if module.backend.alignment is not None:
                result = as_buffers(state, result)
        return result

    def is_live(self, *nodes: Any) -> bool:
        """Whether any of the values depends on the frame."""
        return bool(deltas_in([self.travels[node] for node in nodes if isinstance(node, fx.Node)]))

    def travelling(self, node: fx.Node) -> list[Any]:
        """The inputs of a node, as they will travel."""
        return [self.travels[a] if isinstance(a, fx.Node) else a for a in node.args]

    def note_input(self, n: fx.Node, module: DenseToDelta, frame: Any) -> Any:
        state = NodeState(module.path, new_leaves(module, frame), self.aligned[n])
        self.plan.nodes[module.path] = state
        self.plan.inputs.append(state)
        narrow = module.backend.frame_alignment
        if narrow is not None and all(gathers_pixels(self.leaf_module(user)) for user in n.users):
            for leaf in state.leaves:
                if leaf.shape[1] * leaf.dtype.itemsize <= narrow:
                    leaf.alignment = narrow

        def enters(x: Tensor) -> Delta:
            streams = self.plan.has_streams(x.shape)
            pixel = tuple(1 if d == 1 or not streams else size for d, size in enumerate(x.shape))
            known = pixels_of(x) if streams else None
            mask = torch.ones(known or pixel, dtype=torch.uint8, device=x.device)
            return without_contents(x, mask, streams and sends_difference(module, x))

        if module.preprocess is not None:
            (leaf,) = state.leaves
            leaf.raw = torch.zeros(leaf.shape, dtype=torch.uint8, device=leaf.device).contiguous(
                memory_format=torch.channels_last
            )
        sent = pytree.tree_map_only(Tensor, enters, frame)
        note_pixels(state, sent)
        masked = [delta for delta in deltas_in(sent) if self.plan.has_streams(delta.shape)]
        raw = [x.raw for x in state.leaves if x.raw is not None]
        state.predicted_bytes = bytes_of([*state.leaves, *raw]) + bytes_of_masks(masked)
        return sent

    def note(self, n: fx.Node, node: DeltaNode, result: Any, random: bool) -> Any:
        inputs, travelling = self.inputs_of(n), self.travelling(n)
        tensors = tensors_in(result)
        if not deltas_in(travelling):
            if random:
                raise NoDeltaForm(
                    f"{node.path}: {node.operator} draws random numbers that do not depend on the frame; computed "
                    f"once, they would always be the same. Make them an input of the model."
                )
            if tensors:
                self.plan.constants[node.path] = result
            return result
        if node.picks(inputs):
            return node.dense(*travelling)
        if not tensors:
            raise NoDeltaForm(
                f"{node.path}: {node.operator} turns the frame into {type(result).__name__}, not a tensor; what "
                f"follows cannot know when it changes. Keep it a tensor (no .item(), .tolist(), int() or float())."
            )
        state = NodeState(node.path, new_leaves(node, result), self.aligned[n], random=random)
        state.operands = [x.shape for x in tensors_in(inputs)]
        self.plan.nodes[node.path] = state
        self.examine(node, inputs, travelling, result, state)
        self.aligned[n] = state.aligned
        state.dense = node.island is not None or state.reason is not None
        storages = {storage_of(x) for x in tensors_in(inputs)}
        for leaf, tensor in zip(state.leaves, tensors, strict=True):
            leaf.aliased = node.storage == VIEW and storage_of(tensor) in storages
        self.divide(node, inputs, travelling, state)
        masks = pytree.tree_map(lambda x: x.mask if isinstance(x, Delta) else None, travelling)
        self.follow(n, node, inputs, masks, result)
        return self.send(node, inputs, travelling, result, state)

    def examine(self, node: DeltaNode, inputs: list[Any], travelling: list[Any], result: Any, state: NodeState) -> None:
        """Ask every stage whether its mask rule holds for these inputs and whether it keeps the streams apart."""
        carries = [bool(deltas_in(x)) for x in travelling]
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
            value, chain = result if stage is node.stages[-1] else stage.op(*operands), any(alive)
            if stage.op.locality == "pointwise":  # a tensor of smaller rank broadcasts along the streams
                ranks = [x.dim() for x, live in zip(operands, alive, strict=True) if live and isinstance(x, Tensor)]
                state.aligned = state.aligned and all(rank == value.dim() for rank in ranks)

    def divide(self, node: DeltaNode, inputs: list[Any], travelling: list[Any], state: NodeState) -> None:
        """With `difference` payload: which stages work on differences, and what is kept for the others."""
        if node.payload != "difference":
            return
        nested = any(isinstance(x, (tuple, list, dict)) for x in inputs)
        carried = all(delta.difference is not None for delta in deltas_in(travelling))
        if carried and state.aligned and state.reason is None and not nested:
            state.linear = node.linear_stages([isinstance(x, Delta) for x in travelling])
        state.keeps_value = state.linear < len(node.stages) or self.plan.withholds(node)

    def follow(self, n: fx.Node, node: DeltaNode, inputs: list[Any], masks: list[Any], result: Any) -> None:
        """With a background refresh: how far the strips of a node are behind those of the input."""
        if self.plan.background is None:
            return
        state = self.plan.nodes[node.path]
        behind = max((self.lags.get(source, 0.0) for source in n.all_input_nodes), default=0.0)
        self.lags[n] = behind + (reach(node, inputs, masks, result) if state.reason is None else 1.0)
        state.lag = self.lags[n]

    def send(self, node: DeltaNode, inputs: list[Any], travelling: list[Any], result: Any, state: NodeState) -> Any:
        """What will travel from a node; notes the bytes that it will keep."""
        masks = pytree.tree_map(lambda x: x.mask if isinstance(x, Delta) else None, travelling)
        if state.reason is None:
            rule = node.candidates(masks, inputs, result)
        else:
            rule = pytree.tree_map_only(Tensor, lambda piece: everything(masks, inputs, piece), result)
        pieces, spec = pytree.tree_flatten(result)
        sent = [
            without_contents(x, mask, sends_difference(node, x)) if isinstance(x, Tensor) else x
            for x, mask in zip(pieces, pytree.tree_leaves(rule), strict=True)
        ]
        note_pixels(state, sent)
        kept: list[Any] = []
        if state.linear:
            chain = tensors_in(node.dense_stages(inputs, 0, state.linear))
            kept += [*chain, *chain] if state.keeps_value else chain  # the sum of the differences, and the bias
        if state.keeps_value:
            kept += [leaf for leaf in state.leaves if not leaf.aliased]
            needed = {i for stage in list(node.stages)[state.linear :] for i in stage.operands if i is not None}
            kept += accumulated([travelling[i] for i in needed])
        state.predicted_bytes = bytes_of(kept) + bytes_of_masks(deltas_in(sent))
        return pytree.tree_unflatten(sent, spec)

    def predict(self) -> int:
        """The bytes that the plan will keep; what stands in a concatenation's buffer is counted there."""
        total = sum(state.predicted_bytes for state in self.plan.nodes.values())
        for node in self.graph.find_nodes(op="call_module"):
            module = self.leaf_module(node)
            state = self.plan.nodes.get(module.path)
            if state is not None and isinstance(module, DeltaNode) and self.slice_of(node, state.leaves[0]):
                total -= state.leaves[0].bytes
        return total


def own_copy(tensor: Tensor) -> Tensor:
    """The caller's tensor stays as it is, whatever a layer does to its input. What is known of its pixels is kept."""
    copy = tensor.clone()
    given = handover_of(tensor)
    if given is not None:
        setattr(copy, ATTRIBUTE, given)
    return copy


def as_buffers(state: NodeState, result: Any) -> Any:
    """A result laid out as its buffers will be, which decides what can be a view of them."""
    pieces, spec = pytree.tree_flatten(result)
    leaves = iter(state.leaves)
    for index, piece in enumerate(pieces):
        leaf = next(leaves, None) if isinstance(piece, Tensor) else None
        if leaf is not None and not leaf.aliased:
            pieces[index] = leaf.allocate().copy_(piece)
    return pytree.tree_unflatten(pieces, spec)


def new_leaves(node: DeltaNode | DenseToDelta, result: Any) -> Any:
    """A node's output with a Leaf for each tensor."""

    def new_leaf(x: Tensor) -> Leaf:
        alignment = node.backend.alignment
        return Leaf(x.shape, x.dtype, x.device, x.stride(), quantizer=quantizer_of(x), alignment=alignment)

    return pytree.tree_map_only(Tensor, new_leaf, result)


def gathers_pixels(reader: Any) -> bool:
    """Whether it is a convolution of whole pixels of an image."""
    if not isinstance(reader, DeltaNode) or not isinstance(reader.head, Conv):
        return False
    return reader.head.rank == 2 and reader.head.groups == 1


def note_pixels(state: NodeState, sent: Any) -> None:
    for leaf, delta in zip(state.leaves, deltas_in(sent), strict=True):
        leaf.pixel = tuple(delta.mask.shape)


def without_contents(tensor: Tensor, mask: Tensor, difference: bool) -> Delta:
    payload = torch.empty_like(tensor.int_repr() if tensor.is_quantized else tensor, device="meta")
    return Delta(mask, difference=payload) if difference else Delta(mask, value=payload)


def sends_difference(node: DeltaNode | DenseToDelta, tensor: Tensor) -> bool:
    return node.payload == "difference" and tensor.is_floating_point()


def accumulated(travelling: Any) -> list[Tensor]:
    """What a reader of values keeps for the differences that it is sent."""
    return [delta.difference for delta in deltas_in(travelling) if delta.difference is not None]


def bytes_of(kept: Sequence[Tensor | Leaf]) -> int:
    return sum(x.bytes if isinstance(x, Leaf) else x.numel() * x.element_size() for x in kept)


def bytes_of_masks(deltas: Sequence[Delta]) -> int:
    return sum(mask_bytes(delta.mask.numel()) for delta in deltas)


def version(nest: Any) -> list[int]:
    return [tensor._version for tensor in tensors_in(nest)]


def random_state(device: torch.device) -> list[bytes]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return [state.numpy().tobytes() for state in states]
