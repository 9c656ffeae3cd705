"""A compiled node: all that it works on is bound when the plan is filled, so that a frame is one operator call, or two.

The number of pixels that a node computes stands on the device only: no call waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx import _cuda
from deltafx.backends.compiled import decision, strips_of
from deltafx.backends.cuda.candidates import Candidates, Marks
from deltafx.backends.cuda.dense import dense_form
from deltafx.backends.cuda.tilings import Tilings
from deltafx.backends.matrix import NoKernel, matrix
from deltafx.backends.recipe import Flags, Recipe
from deltafx.state import COMPUTED_SUM, Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda

MOST_PIECES = 1 << 31
WIDEST_PIXEL = 22_000  # channels: a pixel that is not split among blocks stands in shared memory as float32


class Whole:
    """Scratch for a node's new values, as large as that of the largest node of its lane that needs it."""

    def __init__(self) -> None:
        self.bytes = 0
        self.buffer: Tensor | None = None

    @classmethod
    def of(cls, plan: Plan, leaf: Leaf) -> Whole:
        whole = plan.scratch.setdefault(("whole", leaf.lane), cls())
        whole.bytes = max(whole.bytes, leaf.bytes)
        return whole

    def matrix(self, like: Tensor) -> Tensor:
        """In the form of a node's value, once all nodes are known."""
        if self.buffer is None:
            self.buffer = torch.empty(self.bytes, dtype=torch.uint8, device=like.device)
        part = self.buffer[: like.shape.numel() * like.dtype.itemsize]
        return part.view(like.dtype).view(like.shape)


class CompiledKernel:
    """Runs one node of one plan."""

    note = None
    captured = True  # in a CUDA graph: it neither waits nor allocates
    exact = False  # it rounds in another order than the dense operator does

    def __init__(self, node: DeltaNode, state: NodeState, recipe: Recipe, plan: Plan, flags: Flags):
        (leaf,) = state.leaves
        assert leaf.value is not None
        out = matrix(leaf.value, leaf.pixel)
        for x in (out, *recipe.arguments):
            if isinstance(x, Tensor) and pieces(x) >= MOST_PIECES:
                raise NoKernel(f"a feature map of {tuple(x.shape)} is too large")
        if recipe.operator != "convolve" and out.shape[1] > WIDEST_PIXEL:
            raise NoKernel(f"it has more than {WIDEST_PIXEL:,} channels")
        if len(recipe.steps.codes) > 2 * _cuda.max_steps:
            raise NoKernel(f"it has more than {_cuda.max_steps} steps")
        recipe = replace(recipe, arguments=tuple(on(leaf.device, x) for x in recipe.arguments))
        self.flags = flags
        self.name = recipe.operator
        self.leaf, self.value, self.out = leaf, leaf.value, out
        sources = [*recipe.sources, *recipe.steps.sources, *strips_of(leaf)]
        self.collect = Candidates(sources, recipe.window, leaf, plan)
        self.marks = Marks.of(plan)
        self.marks.add(leaf.mask, leaf.tally[:COMPUTED_SUM])
        self.operator = getattr(operators, recipe.operator).default
        self.arguments = recipe.arguments
        self.steps = (*self.collect.arguments, *recipe.steps.arguments)
        self.ending = (out, leaf.mask, leaf.tally)
        self.truncation = node.truncation
        kernels = 2 if recipe.operator == "reduce" else 1  # partial results, and their total
        self.launches = (self.collect.collecting is not None) + kernels
        self.dense = dense_form(recipe, leaf, out, plan)
        self.whole: Whole | None = None
        self.tilings: Tilings | None = None
        if recipe.operator == "convolve":
            self.tilings = Tilings.of(self.arguments, out)
            self.arguments = (*self.arguments, self.tilings.best(), None)
            self.whole = Whole.of(plan, leaf) if plan.withholds(node) else None

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        self.marks.begin(plan)
        self.launch(self.flags.of(state), state, plan)
        if self.truncation is not None:
            plan.measure(state, self.leaf, self.truncation, self.value)
        return state.deltas

    def launch(self, refresh: Tensor, state: NodeState, plan: Plan) -> None:
        self.collect(refresh)
        leaf = self.leaf
        forced, threshold, max_norm = decision(self.truncation, state, leaf, plan)
        if self.whole is not None:
            self.arguments = (*self.arguments[:-1], self.whole.matrix(self.out))
            self.whole = None
        self.operator(*self.arguments, *self.steps, forced, refresh, threshold, max_norm, *self.ending)

    @property
    def marks_itself(self) -> bool:
        """Whether it does in a dense frame, too: a sparse kernel runs then, which refreshes every pixel."""
        return self.dense is None

    @property
    def dense_launches(self) -> int:
        """How many kernels a dense frame has for it, once it is prepared."""
        return self.launches if self.dense is None else self.dense.launches

    def propose(self) -> None:
        """Before any dense form of a plan is prepared."""
        if self.dense is not None:
            self.dense.propose()

    def prepare(self, plan: Plan) -> None:
        """Before its dense form is captured."""
        if self.dense is None:
            self.flags.all(plan)
        else:
            self.dense.prepare()

    def run_densely(self, state: NodeState, plan: Plan) -> None:
        if self.dense is None:
            self.launch(self.flags.all(plan), state, plan)
        else:
            self.dense()

    def take(self, tiling: list[int]) -> None:
        """Convolve with these tiles from now on; a frame that was captured still has others."""
        self.arguments = (*self.arguments[:-2], tiling, self.arguments[-1])


def pieces(x: Tensor) -> int:
    """Of 16 bytes, from the first to the last number of a matrix; kernels count them."""
    return x.shape[0] * -(-x.stride(0) * x.itemsize // 16) if x.dim() == 2 else 0


def on(device: torch.device, argument: Any) -> Any:
    return argument.to(device) if isinstance(argument, Tensor) else argument
