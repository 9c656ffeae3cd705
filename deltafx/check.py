"""The debug checker (`options={"check": True}`): the design's rules, at every node, after every frame.

It keeps its own account of what every edge carries, so it trusts neither the kernels nor the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deltafx.delta import Delta, deltas_in, tensors_in
from deltafx.node import DeltaNode, DenseToDelta
from deltafx.truncation import changed

if TYPE_CHECKING:
    from deltafx.plan import Plan

# How far a difference payload may drift, and compiled kernels may round, as a share of the output's root mean square.
DRIFT = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}


class CheckError(AssertionError):
    """A rule of the design does not hold at a node: a bug in deltafx."""


class Checker:
    """Notes every node's inputs and outputs while a frame runs, and checks the rules when it has ended."""

    def __init__(self) -> None:
        self.records: list[tuple[DeltaNode | DenseToDelta, Sequence[Any], Any]] = []
        self.account: dict[tuple[str, int], Tensor] = {}  # the value of every output, as downstream saw it

    def begin(self) -> None:
        self.records = []

    def note(self, node: DeltaNode | DenseToDelta, inputs: Sequence[Any], outputs: Any) -> None:
        self.records.append((node, inputs, outputs))

    def finish(self, plan: Plan) -> None:
        values: dict[int, Tensor] = {}  # by delta
        for node, inputs, outputs in self.records:
            for delta in deltas_in(inputs):
                if id(delta) not in values:
                    raise CheckError(f"{node.path}: it was given a delta that no node sent in this frame (rule 4).")
            before = {}
            for index, delta in enumerate(deltas_in(outputs)):
                key = (node.path, index)
                before[index] = self.account.get(key)
                values[id(delta)] = self.follow(node, plan, delta, before[index])
                self.account[key] = values[id(delta)].clone()
            if isinstance(node, DenseToDelta):
                self.check_input(node, plan, inputs[0], deltas_in(outputs), before)
            else:
                self.check_node(node, plan, inputs, deltas_in(outputs), values)

    def follow(self, node: DeltaNode | DenseToDelta, plan: Plan, delta: Delta, before: Tensor | None) -> Tensor:
        """The value downstream has after this delta. Outside its mask nothing may have happened (rule 1)."""
        rows = plan.rows if plan.nodes[node.path].aligned else plan.rows.any()
        refresh = rows.view(-1, *[1] * (delta.ndim - 1)) if rows.dim() else rows
        outside = ~delta.mask.bool()
        if not bool((delta.mask.bool() | ~refresh).all()):
            raise CheckError(f"{node.path}: a stream in refresh has pixels outside the update mask (refresh).")
        if delta.value is not None:
            if before is not None and bool((outside & ~same(delta.value, before)).any()):
                raise CheckError(f"{node.path}: a value outside its update mask has changed (rule 1).")
            return delta.value  # as it stands: an operator may round by the strides of its input
        assert delta.difference is not None
        if bool((outside & (delta.difference != 0)).any()):
            raise CheckError(f"{node.path}: a difference outside its update mask is not 0 (rule 1).")
        base = torch.zeros_like(delta.difference) if before is None else torch.where(refresh, 0, before)
        return base + delta.difference

    def check_input(
        self, node: DenseToDelta, plan: Plan, frame: Any, deltas: list[Delta], before: dict[int, Tensor | None]
    ) -> None:
        """Rule 3 at an input: what was not propagated is within the gate, or equal."""
        if plan.forced_mask is not None:
            return
        if node.preprocess is not None:
            if node.gate is not None:
                return  # which works on the raw frames
            frame = node.values(frame)
        for index, (tensor, delta) in enumerate(zip(tensors_in(frame), deltas, strict=True)):
            old = before[index]
            if old is None:
                continue
            if node.gate is not None and tensor.dim() == 4:
                level = plan.grey_level(node.path, node.gate, tensor)
                passed = node.gate.mask(tensor.float() - old.float(), level, plan.learned(node))
                wrong = passed.bool() & ~delta.mask.bool()
            else:
                wrong = ~same(tensor, self.account[(node.path, index)])
                allowed = 0.0 if delta.value is not None else drift(tensor)
                wrong = wrong & (deviation(tensor, self.account[(node.path, index)]) > allowed)
            if bool(wrong.any()):
                raise CheckError(f"{node.path}: a changed pixel of the frame was not propagated (rule 3).")

    def check_node(
        self, node: DeltaNode, plan: Plan, inputs: Sequence[Any], deltas: list[Delta], values: dict[int, Tensor]
    ) -> None:
        """Rule 3: every stored pixel is within its threshold of what the stored inputs give."""
        state = plan.nodes[node.path]
        if plan.forced_mask is not None or state.random:
            return
        known = pytree.tree_map(lambda x: values[id(x)] if isinstance(x, Delta) else x, list(inputs))
        for leaf, delta, wanted in zip(state.leaves, deltas, tensors_in(node.dense(*known)), strict=True):
            held = values[id(delta)]
            threshold = leaf.threshold
            norm = node.truncation.norm if node.truncation else "max"
            exact = state.kernel.exact and delta.value is not None
            if threshold is None and exact:
                wrong = ~same(wanted, held)
            else:
                allowed = (0.0 if exact else drift(wanted)) + (threshold or 0.0)
                settled = torch.where(same(wanted, held), wanted, held)
                wrong = changed(torch.nan_to_num(wanted), torch.nan_to_num(settled), delta.mask.shape, allowed, norm)
            if bool(wrong.any()):
                count = int(wrong.sum())
                raise CheckError(
                    f"{node.path}: {count} of {wrong.numel()} stored pixels are not what the stored inputs give (rule "
                    f"3; a mask too small, rule 4, shows here too)."
                )


def same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | ((a != a) & (b != b))


def deviation(a: Tensor, b: Tensor) -> Tensor:
    return torch.nan_to_num(a.double() - b.double()).abs()


def drift(tensor: Tensor) -> Tensor | float:
    """What rounding may have added to a sum of differences, or to a sum taken in another order."""
    if not tensor.is_floating_point():
        return 0.0
    finite = torch.nan_to_num(tensor.double(), posinf=0, neginf=0)
    return (DRIFT[tensor.dtype] * (1 + finite.square().mean().sqrt())).float()
