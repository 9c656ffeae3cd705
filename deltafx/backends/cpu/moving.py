"""Nodes that compute nothing: views, and concatenations. They pass masks on, and copy what stands elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx.backends import views
from deltafx.backends.cpu.kernel import Collector, Scratch, operators
from deltafx.backends.matrix import matrix, matrix_of
from deltafx.backends.recipe import Flags
from deltafx.backends.views import joined, viewed
from deltafx.backends.window import Window
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan


class MovingKernel(views.MovingKernel):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.copies: list[tuple[Tensor, tuple]] = []

    def collector(self, sources: list[tuple[Leaf, str]], window: Window, out: Leaf, plan: Plan) -> Collector:
        self.listed = Scratch.of(plan, out.pixels)  # where the pixels of the last output are found
        return Collector(sources, window, out, self.listed, moves=True)

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        refresh = self.flags.of(state)
        for collect in self.collectors:
            count = collect(refresh)
            if count:
                for source, target in self.copies:
                    operators.copy.default(
                        source, self.listed.pixels, count, [], [], [], None, refresh, 0.0, False, *target
                    )
        return state.deltas

    def append_to(self, program: Any, state: NodeState, plan: Plan) -> None:
        program.begin_node(self.flags.count(plan), state.aligned, self.listed.candidates.numel())
        for collect in self.collectors:
            collect.append_to(program)
            for source, target in self.copies:
                program.copy(source, self.listed.pixels, [], [], [], 0.0, False, *target)


def view(node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> MovingKernel:
    return MovingKernel("view", state, [viewed(node, state, inputs)], plan, flags)


def concat(
    node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags, isa: str
) -> MovingKernel:
    (out,) = state.leaves
    parts, apart = joined(node, out, inputs)
    kernel = MovingKernel("concat", state, parts, plan, flags)
    for part, place in apart:
        unused = torch.zeros(out.pixels, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
        kernel.copies.append((matrix_of(part), (isa, matrix(place, out.pixel), *unused)))
    return kernel
