"""A compiled node: everything it works on is bound when the plan is filled, so that a frame is two operator calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx import _cpu
from deltafx.backends.compiled import decision, strips_of
from deltafx.backends.matrix import matrix
from deltafx.backends.recipe import Flags, Recipe
from deltafx.backends.window import Window
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.backends.cpu import CpuBackend
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan

operators = torch.ops.deltafx


class Scratch:
    """What lives only while one node runs; shared by all nodes of a plan that have as many pixels."""

    def __init__(self, pixels: int):
        self.candidates = torch.zeros(pixels, dtype=torch.uint8)
        self.pixels = torch.zeros(pixels + 1, dtype=torch.int32)
        self.count = torch.zeros(1, dtype=torch.int64)

    @classmethod
    def of(cls, plan: Plan, pixels: int) -> Scratch:
        if pixels not in plan.scratch:
            plan.scratch[pixels] = cls(pixels)
        return plan.scratch[pixels]


class Collector:
    """Finds the pixels that a node has to compute; in a frame that brings it nothing, that is all that runs."""

    def __init__(self, sources: Sequence[tuple[Leaf, str]], window: Window, out: Leaf, scratch: Scratch, moves: bool):
        relations = [_cpu.relations[relation] for _, relation in sources]
        self.before = (
            [leaf.mask for leaf, _ in sources], [leaf.tally for leaf, _ in sources], relations, *window.arguments,
        )  # fmt: skip
        self.after = (moves, scratch.candidates, scratch.pixels, scratch.count, out.mask, out.tally)
        self.count = scratch.count

    def append_to(self, program: Any, moves: bool | None = None) -> None:
        """With `moves`, what is found is passed on, whatever it was made for."""
        own, candidates, pixels, _, mask, tally = self.after
        program.collect(*self.before, own if moves is None else moves, candidates, pixels, mask, tally)

    def __call__(self, refresh: Tensor) -> int:
        operators.collect.default(*self.before, refresh, *self.after)
        return int(self.count.item())


class CompiledKernel:
    """Runs one node of one plan."""

    note = None
    exact = False  # it rounds in another order than the dense operator does

    def __init__(
        self, node: DeltaNode, state: NodeState, recipe: Recipe, plan: Plan, flags: Flags, backend: CpuBackend
    ):
        (leaf,) = state.leaves
        assert leaf.value is not None
        scratch = Scratch.of(plan, leaf.pixels)
        self.flags = flags
        self.name = recipe.operator
        self.leaf, self.value = leaf, leaf.value
        self.collect = Collector(
            [*recipe.sources, *recipe.steps.sources, *strips_of(leaf)], recipe.window, leaf, scratch, moves=False
        )
        self.operator = getattr(operators, recipe.operator).default
        self.arguments = recipe.arguments
        self.pixels = scratch.pixels
        self.window = recipe.window
        self.steps, self.step_sources = recipe.steps.arguments, recipe.steps.sources
        self.ending = (backend.isa, matrix(leaf.value, leaf.pixel), leaf.mask, leaf.tally)
        self.node = node
        self.dense = recipe.dense if backend.dense_switch else None
        self.dense_above = int(min(recipe.dense_share, 1.0) * leaf.pixels) if self.dense is not None else leaf.pixels

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        refresh = self.flags.of(state)
        count = self.collect(refresh)
        if count:
            self.compute(count, refresh, state, plan)
        return state.deltas

    def append_to(self, program: Any, state: NodeState, plan: Plan) -> None:
        """Prepare the two calls, with the threshold of this frame, as a node of a program."""
        program.begin_node(self.flags.count(plan), state.aligned, self.dense_above)
        self.append_as(self.name, self.arguments, program, state, plan)

    def append_as(self, name: str, arguments: tuple[Any, ...], program: Any, state: NodeState, plan: Plan) -> None:
        """Prepare the two calls, of which another kernel may be the second, for a node that was begun."""
        _, threshold, max_norm = decision(self.node.truncation, state, self.leaf, plan)
        self.collect.append_to(program)
        append = getattr(program, name)
        append(*arguments, self.pixels, *self.steps, threshold, max_norm, *self.ending)

    def compute(self, count: int, refresh: Tensor, state: NodeState, plan: Plan) -> None:
        leaf = self.leaf
        forced, threshold, max_norm = decision(self.node.truncation, state, leaf, plan)
        steps = (*self.steps, forced, refresh, threshold, max_norm, *self.ending)
        if self.dense is not None and count > self.dense_above:
            operators.copy.default(self.dense(), self.pixels, count, *steps)
        else:
            self.operator(*self.arguments, self.pixels, count, *steps)
        if self.node.truncation is not None:
            plan.measure(state, leaf, self.node.truncation, self.value)
