"""What has no compiled kernel: the reference runs it, unless nothing arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.utils import _pytree as pytree

from deltafx.backends.reference import ReferenceKernel
from deltafx.state import UPDATED, Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode, DenseToDelta
    from deltafx.plan import Plan


class Fallback(ReferenceKernel):
    """The reference kernel for one node of a plan, with the reason why it is that one."""

    def __init__(self, node: DeltaNode | DenseToDelta, state: NodeState, inputs: Sequence[Any], note: str):
        self.note = note
        self.arriving = [leaf for leaf in pytree.tree_leaves(list(inputs)) if isinstance(leaf, Leaf)]
        self.arriving += [leaf.strip for leaf in state.leaves if leaf.strip is not None]
        self.rests = node.payload == "value" and not state.random

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        if self.rests and not any(leaf.tally[UPDATED] for leaf in self.arriving) and not bool(state.rows.any()):
            for leaf in state.leaves:
                leaf.rest()
            return state.deltas
        return super().run(node, state, inputs, plan)
