"""Nodes that compute nothing: views, and concatenations. They pass masks on, and copy what stands elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deltafx.backends.cuda.kernel import WIDEST_PIXEL, Collector, Scratch, operators
from deltafx.backends.matrix import NoKernel, matrix, matrix_of
from deltafx.backends.recipe import Flags
from deltafx.backends.views import joined, viewed
from deltafx.backends.window import same_pixels
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan


class MovingKernel:
    """Runs a node whose output pixels are its input pixels, in their order."""

    note = None
    captured = True  # in a CUDA graph: it neither waits nor allocates
    exact = True

    def __init__(self, name: str, state: NodeState, sources: Sequence[Leaf], plan: Plan, flags: Flags):
        self.name = name
        self.flags = flags
        self.collectors = []
        for leaf in state.leaves:
            scratch = Scratch.of(plan, leaf.pixels)
            window = same_pixels(leaf.pixels // leaf.pixel[0])
            self.collectors.append(Collector([(x, "same") for x in sources], window, leaf, scratch, moves=True))
        self.listed: tuple[Any, ...] = (scratch.pixels, scratch.claims, scratch.count, [], [], [], None)
        self.copies: list[tuple[Tensor, Tensor]] = []

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        refresh = self.flags.of(state)
        for collect in self.collectors:
            collect(refresh)
        for source, target in self.copies:
            operators.copy.default(source, *self.listed, refresh, 0.0, False, target, None, None)
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
