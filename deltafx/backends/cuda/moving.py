"""Nodes that compute nothing: views, and concatenations. They pass masks on, and copy what stands elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deltafx.backends import views
from deltafx.backends.cuda.kernel import WIDEST_PIXEL, Collector, Scratch, operators
from deltafx.backends.matrix import NoKernel, matrix, matrix_of
from deltafx.backends.recipe import Flags
from deltafx.backends.views import joined, viewed
from deltafx.state import NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan


class MovingKernel(views.MovingKernel):
    captured = True  # in a CUDA graph: it neither waits nor allocates
    scratch = Scratch
    collector = Collector

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.copies: list[tuple[Tensor, Tensor]] = []

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        refresh = self.flags.of(state)
        for collect in self.collectors:
            collect(refresh)
        pixels = (self.listed.pixels, self.listed.claims, self.listed.count)
        for source, target in self.copies:
            operators.copy.default(source, *pixels, [], [], [], None, refresh, 0.0, False, target, None, None)
        return state.deltas


def view(node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> MovingKernel:
    return MovingKernel("view", state, [viewed(node, state, inputs)], plan, flags)


def concat(node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> MovingKernel:
    (out,) = state.leaves
    parts, apart = joined(node, out, inputs)
    kernel = MovingKernel("concat", state, parts, plan, flags)
    for part, place in apart:
        kernel.copies.append((matrix_of(part), matrix(place, out.pixel)))
        if kernel.copies[-1][0].shape[1] > WIDEST_PIXEL:
            raise NoKernel(f"a part has more than {WIDEST_PIXEL:,} channels")
    return kernel
