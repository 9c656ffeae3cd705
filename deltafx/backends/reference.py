"""The reference backend: PyTorch alone, any device, both payloads, slow and obviously right.

Every node runs its dense function over the whole frame; what the mask rule and the truncation say is then written.
It saves no time. It is what the compiled backends are tested against, and what counts how much they have to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deltafx.delta import Delta
from deltafx.ops.base import everything
from deltafx.state import Leaf, NodeState
from deltafx.truncation import changed

if TYPE_CHECKING:
    from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
    from deltafx.plan import Plan


@dataclass(frozen=True)
class ReferenceBackend:
    """Gives every node the same kernel."""

    name: ClassVar[str] = "reference"
    alignment: ClassVar[int | None] = None  # buffers lie as the dense operators lay out their results
    frame_alignment: ClassVar[int | None] = None

    def bind(self, node: Any, state: NodeState, inputs: Sequence[Any], plan: Plan) -> ReferenceKernel:
        return ReferenceKernel()


class ReferenceKernel:
    """Runs any node."""

    name = "reference"
    note: str | None = None  # why a compiled backend uses it
    exact = True  # computes what the dense operator does, bit for bit

    def run_input(self, node: DenseToDelta, state: NodeState, frame: Any, plan: Plan) -> Any:
        pieces, spec = pytree.tree_flatten(frame)
        tensors = iter(state.leaves)
        return pytree.tree_unflatten(
            [self._enter(node, state, next(tensors), x, plan) if isinstance(x, Tensor) else x for x in pieces], spec
        )

    def _enter(self, node: DenseToDelta, state: NodeState, leaf: Leaf, frame: Tensor, plan: Plan) -> Delta:
        assert leaf.value is not None
        if not plan.has_streams(leaf.shape):  # one tensor for all streams: a change of it refreshes everything
            mask = plan.full_refresh().to(torch.uint8).expand([1] * frame.dim())
            leaf.decide(mask, mask)
            leaf.value.copy_(frame)
            return leaf.delta
        last = leaf.value if leaf.raw is None else leaf.raw
        candidates = torch.ones(leaf.pixel, dtype=torch.uint8, device=frame.device)
        forced, known = plan.forced(candidates), plan.known_changes(node, leaf, frame)
        if forced is not None:
            update = forced
        elif known is not None:
            update = known
        elif node.gate is not None and frame.dim() == 4:
            change = frame.float() - last.float()
            level, learned = plan.grey_level(node.path, node.gate, frame), plan.learned(node)
            if learned is not None:
                node.gate.learn(change, level, learned, state.rows.expand(plan.streams))
            update = node.gate.mask(change, level, learned)
        else:
            update = changed(frame, last, leaf.pixel, None, "max")
        update = update | state.refresh(frame.dim())
        if leaf.strip is not None:
            update = update | leaf.strip.mask
        leaf.decide(candidates, update)
        if leaf.raw is not None:
            leaf.raw.copy_(torch.where(update.bool(), frame, leaf.raw))
            frame = node.values(frame)
        return emit(node.payload, state, leaf, frame, plan)

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        masks = pytree.tree_map(lambda leaf: leaf.mask if isinstance(leaf, Delta) else None, list(inputs))
        if node.payload == "value":
            values = pytree.tree_map(lambda leaf: leaf.value if isinstance(leaf, Delta) else leaf, list(inputs))
            return self._finish(node, state, masks, values, node.dense(*values), plan)
        return self._run_difference(node, state, inputs, masks, plan)

    def _finish(
        self, node: DeltaNode, state: NodeState, masks: Sequence[Any], values: Sequence[Any], result: Any, plan: Plan
    ) -> Any:
        """Mask rule, truncation and emission for every tensor of a node's new value."""
        plan.check_result(node.path, state, result)
        pieces, spec = pytree.tree_flatten(result)
        rule = pytree.tree_leaves(self._candidates(node, state, masks, values, result))
        mask_of = iter(rule)
        tensors = iter(state.leaves)
        outputs = []
        for piece in pieces:
            if not isinstance(piece, Tensor):
                outputs.append(piece)
                next(mask_of)
                continue
            leaf, candidates = next(tensors), next(mask_of)
            self._decide(node, state, leaf, piece, candidates, plan)
            outputs.append(emit(node.payload, state, leaf, piece, plan))
        return pytree.tree_unflatten(outputs, spec)

    def _candidates(
        self, node: DeltaNode, state: NodeState, masks: Sequence[Any], values: Sequence[Any], result: Any
    ) -> Any:
        if state.random:
            masks = pytree.tree_map_only(Tensor, torch.ones_like, masks)
        if state.reason is not None:
            return pytree.tree_map_only(Tensor, lambda piece: everything(masks, values, piece), result)
        return node.candidates(masks, values, result)

    def _decide(
        self, node: DeltaNode, state: NodeState, leaf: Leaf, new: Tensor, candidates: Tensor, plan: Plan
    ) -> None:
        """Truncation: from the pixels that can have changed to those that are propagated."""
        if leaf.strip is not None:
            candidates = candidates | leaf.strip.mask
        update = candidates
        refresh = state.refresh(new.dim())
        if node.truncation is not None and not leaf.aliased:
            forced = plan.forced(candidates)
            if forced is None:
                assert leaf.value is not None
                plan.measure(state, leaf, node.truncation, new)
                leaf.threshold = plan.threshold(state, leaf, node.truncation)
                forced = changed(new, leaf.value, candidates.shape, leaf.threshold, node.truncation.norm)
            update = update & forced
        leaf.decide(candidates | refresh, update | refresh)

    def _run_difference(
        self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], masks: Sequence[Any], plan: Plan
    ) -> Any:
        """The paper's semantics: linear stages work on differences, the others on accumulated inputs."""
        linear = state.linear
        whole = linear == len(node.stages)
        chain: Any = self._linear_part(node, state, inputs, linear) if linear else None
        if not state.keeps_value:
            pieces, spec = pytree.tree_flatten(chain)
            rule = pytree.tree_leaves(node.candidates(masks, inputs, chain))
            outputs = []
            for leaf, piece, candidates in zip(state.leaves, pieces, rule, strict=True):
                update = candidates | state.refresh(piece.dim())
                leaf.decide(update, update)
                fresh = state.refresh(piece.dim()).bool()
                outputs.append(Delta(leaf.mask, difference=torch.where(leaf.mask.bool(), piece, 0), fresh=fresh))
                plan.flag_non_finite(piece, state)
            return pytree.tree_unflatten(outputs, spec)

        if linear:
            chain = self._accumulate(state, None, chain, state.refresh(chain.dim()).bool())
        needed = {i for stage in list(node.stages)[linear:] for i in stage.operands if i is not None}
        values = [self._read(state, i, x) if i in needed else x for i, x in enumerate(inputs)]
        result = chain if whole else node.dense_stages(values, linear, None, chain)
        return self._finish(node, state, masks, values, result, plan)

    def _linear_part(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], count: int) -> Any:
        """The change of the first `count` stages: f(d) - f(0), and the whole f(d) for a stream in refresh."""
        differences = [x.difference if isinstance(x, Delta) else x for x in inputs]
        if state.offset is None:
            zeros = [torch.zeros_like(x.payload) if isinstance(x, Delta) else x for x in inputs]
            state.offset = pytree.tree_map(torch.clone, node.dense_stages(zeros, 0, count))

        def change(result: Tensor, offset: Tensor) -> Tensor:
            return result - torch.where(state.refresh(result.dim()).bool(), 0, offset)

        return pytree.tree_map(change, node.dense_stages(differences, 0, count), state.offset)

    def _accumulate(self, state: NodeState, key: Any, difference: Tensor, fresh: Tensor | None) -> Tensor:
        if key not in state.accumulated:
            state.accumulated[key] = torch.zeros_like(difference)
        assert fresh is not None
        total = state.accumulated[key]
        return total.copy_(torch.where(fresh, 0, total) + difference)

    def _read(self, state: NodeState, index: int, value: Any) -> Any:
        """Input number `index` as this node has seen it: deltas become their values."""
        pieces, spec = pytree.tree_flatten(value)
        for k, piece in enumerate(pieces):
            if isinstance(piece, Delta):
                pieces[k] = (
                    self._accumulate(state, (index, k), piece.difference, piece.fresh)
                    if piece.difference is not None
                    else piece.value
                )
        return pytree.tree_unflatten(pieces, spec)

    def run_output(self, node: DeltaToDense, state: NodeState, result: Any, plan: Plan) -> Any:
        if isinstance(result, Delta) and result.value is not None:
            return result.value
        pieces, spec = pytree.tree_flatten(result)
        return pytree.tree_unflatten([self._read(state, i, piece) for i, piece in enumerate(pieces)], spec)


def emit(payload: str, state: NodeState, leaf: Leaf, new: Tensor, plan: Plan) -> Delta:
    """Write what is propagated into the buffer and send it on."""
    old, update = leaf.value, leaf.mask
    assert old is not None
    if payload == "difference" and new.is_floating_point():
        fresh = state.refresh(new.dim()).bool()
        difference = torch.where(update.bool(), new - torch.where(fresh, 0, old), 0)
        old.copy_(torch.where(update.bool(), new, old))
        plan.flag_non_finite(new, state)
        return Delta(leaf.mask, difference=difference, fresh=fresh)
    if not leaf.aliased:
        old.copy_(new if new.is_quantized else torch.where(update.bool(), new, old))  # there is no `where` for them
    return leaf.delta
