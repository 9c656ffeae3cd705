"""Nodes that compute nothing: views, and concatenations. They pass masks on, and copy what stands elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deltafx.backends import views
from deltafx.backends.cuda.candidates import Candidates, Marks
from deltafx.backends.cuda.kernel import WIDEST_PIXEL, operators
from deltafx.backends.matrix import NoKernel, matrix, matrix_of
from deltafx.backends.recipe import Flags
from deltafx.backends.views import joined, viewed
from deltafx.backends.window import Window
from deltafx.state import COMPUTED_SUM, Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan


class MovingKernel(views.MovingKernel):
    captured = True  # in a CUDA graph: it neither waits nor allocates

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.copies: list[tuple[Tensor, Tensor]] = []  # from where and to where, as matrices

    def collector(self, sources: list[tuple[Leaf, str]], window: Window, out: Leaf, plan: Plan) -> Candidates:
        self.marks = Marks.of(plan)
        self.marks.add(out.tally[:COMPUTED_SUM])
        return Candidates(sources, window, out, plan, moves=True)

    marks_itself = False

    @property
    def dense_launches(self) -> int:
        return len(self.copies)

    def propose(self) -> None:
        """Nothing has to be settled for its dense form."""

    def prepare(self, plan: Plan) -> None:
        """Nor here."""

    def run_densely(self, state: NodeState, plan: Plan) -> None:
        streams = state.leaves[0].pixel[0]
        for source, target in self.copies:
            operators.finish.default(source, [], [], [], streams, target)

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        refresh = self.flags.of(state)
        self.marks.begin(plan)
        for collect in self.collectors:
            collect(refresh)
        for source, target in self.copies:
            candidates = self.collectors[-1].arguments
            operators.copy.default(source, *candidates, [], [], [], None, refresh, 0.0, False, target, None, None)
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
