"""A compiled node: everything it works on is bound when the plan is filled, so that a frame is two operator calls.

The number of pixels that a node computes stands on the device only: no call waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx import _cuda
from deltafx.backends.compiled import decision
from deltafx.backends.matrix import NoKernel, matrix
from deltafx.backends.recipe import Flags, Recipe
from deltafx.backends.window import Window
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda

WIDEST_PIXEL = 22_000  # channels: a pixel that is not split among blocks stands in shared memory as float32


class Scratch:
    """What lives only while one node runs; shared by all nodes of a plan that have as many pixels."""

    def __init__(self, pixels: int, device: torch.device):
        self.pixels = torch.zeros(pixels, dtype=torch.int32, device=device)
        self.claims = torch.zeros(pixels, dtype=torch.int32, device=device)
        self.count = torch.zeros(1, dtype=torch.int32, device=device)
        self.scan = torch.zeros(2 + _cuda.scan_blocks(pixels), dtype=torch.int64, device=device)

    @classmethod
    def of(cls, plan: Plan, pixels: int) -> Scratch:
        if pixels not in plan.scratch:
            plan.scratch[pixels] = cls(pixels, plan.stale.device)
        return plan.scratch[pixels]


class Whole:
    """Scratch for a node's new values, as large as that of the largest node that needs it."""

    def __init__(self) -> None:
        self.bytes = 0
        self.buffer: Tensor | None = None

    @classmethod
    def of(cls, plan: Plan, leaf: Leaf) -> Whole:
        whole = plan.scratch.setdefault("whole", cls())
        whole.bytes = max(whole.bytes, leaf.bytes)
        return whole

    def matrix(self, like: Tensor) -> Tensor:
        """In the form of a node's value, once all nodes are known."""
        if self.buffer is None:
            self.buffer = torch.empty(self.bytes, dtype=torch.uint8, device=like.device)
        part = self.buffer[: like.shape.numel() * like.dtype.itemsize]
        return part.view(like.dtype).view(like.shape)


class Collector:
    """Finds the pixels that a node has to compute."""

    def __init__(self, sources: Sequence[tuple[Leaf, str]], window: Window, out: Leaf, scratch: Scratch, moves: bool):
        if len(sources) > _cuda.max_sources:
            raise NoKernel(f"it has more than {_cuda.max_sources} inputs")
        windowed = "whole" if reads_everything(window) else "same" if reads_itself(window) else "window"
        relations = [_cuda.relations[windowed if name == "window" else name] for _, name in sources]
        masks = [leaf.mask for leaf, _ in sources]
        window = window.to(out.device)
        self.before = (masks, [leaf.tally for leaf, _ in sources], relations, *window.arguments)
        self.after = (moves, scratch.pixels, scratch.claims, scratch.count, scratch.scan, out.mask, out.tally)

    def __call__(self, refresh: Tensor) -> None:
        operators.collect.default(*self.before, refresh, *self.after)


def reads_everything(window: Window) -> bool:
    """Whether it is one output pixel that reads all of its stream."""
    return window.pixels == 1 and covers(window.rows, window.in_rows) and covers(window.columns, window.in_columns)


def reads_itself(window: Window) -> bool:
    """Whether every output pixel reads the input pixel in its place, as with a 1x1 kernel of stride 1."""
    return window.taps == 1 and covers(window.rows, window.in_rows) and covers(window.columns, window.in_columns)


def covers(axis: Tensor, size: int) -> bool:
    return torch.equal(axis.flatten(), torch.arange(size, dtype=axis.dtype))


class CompiledKernel:
    """Runs one node of one plan."""

    note = None
    captured = True  # in a CUDA graph: it neither waits nor allocates
    exact = False  # it rounds in another order than the dense operator does

    def __init__(self, node: DeltaNode, state: NodeState, recipe: Recipe, plan: Plan, flags: Flags):
        (leaf,) = state.leaves
        assert leaf.value is not None
        out = matrix(leaf.value, leaf.pixel)
        if recipe.operator != "convolve" and out.shape[1] > WIDEST_PIXEL:
            raise NoKernel(f"it has more than {WIDEST_PIXEL:,} channels")
        if len(recipe.steps.codes) > 2 * _cuda.max_steps:
            raise NoKernel(f"it has more than {_cuda.max_steps} steps")
        scratch = Scratch.of(plan, leaf.pixels)
        self.flags = flags
        self.name = recipe.operator
        self.leaf, self.value, self.out = leaf, leaf.value, out
        self.collect = Collector([*recipe.sources, *recipe.steps.sources], recipe.window, leaf, scratch, moves=False)
        self.operator = getattr(operators, recipe.operator).default
        self.arguments = tuple(on(leaf.device, x) for x in recipe.arguments)
        self.steps = (scratch.pixels, scratch.claims, scratch.count, *recipe.steps.arguments)
        self.ending = (out, leaf.mask, leaf.tally)
        self.truncation = node.truncation
        self.whole: Whole | None = None
        if recipe.operator == "convolve":
            self.arguments = (*self.arguments, None)
            self.whole = Whole.of(plan, leaf) if plan.withholds(node) else None

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        refresh = self.flags.of(state)
        self.collect(refresh)
        leaf = self.leaf
        forced, threshold, max_norm = decision(self.truncation, state, leaf, plan)
        if self.whole is not None:
            self.arguments = (*self.arguments[:-1], self.whole.matrix(self.out))
            self.whole = None
        self.operator(*self.arguments, *self.steps, forced, refresh, threshold, max_norm, *self.ending)
        if self.truncation is not None:
            plan.measure(state, leaf, self.truncation, self.value)
        return state.deltas


def on(device: torch.device, argument: Any) -> Any:
    return argument.to(device) if isinstance(argument, Tensor) else argument
