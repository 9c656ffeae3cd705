"""Refresh of what was touched: from time to time all that moved is computed anew, whatever thresholds withhold.

What is withheld stays behind where something came or went, such as a detection that is gone; where nothing passed the
input's gate there is little to put right. So the pixels that did pass since they were last computed anew are remembered
at the input and, every so many frames, every node computes its share of them. How a node is made to is told in
background.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deltafx.background import Turn, clear
from deltafx.cuda_graph import captured
from deltafx.state import Leaf

Grid = tuple[int, int]  # rows and columns
pool = torch.ops.aten.adaptive_max_pool2d.out


class TouchedRefresh:
    """The rounds of one plan, of `every` frames each. All memory is taken when the first frame ends."""

    def __init__(self, every: int):
        self.every = every
        self.turns: list[Turn] = []
        self.touched: dict[int, Touched] = {}  # by input
        self.marks: Callable[[], None] = self.mark

    def add(self, leaf: Leaf, lag: float, forgets: bool) -> None:
        """A tensor with a mask and, if it `forgets`, a buffer; before its kernel is bound."""
        self.turns.append(Turn.of(leaf, lag, forgets))

    def begin(self, frame: int) -> None:
        """Set what this frame computes anew. What stood there is gone: the frame must run, or all be refreshed."""
        self.rest()
        if frame and frame % self.every == 0:
            self.set()

    def set(self) -> None:
        for turn in self.turns:
            turn.is_set = True
        self.marks()

    def capture(self) -> None:
        """On a GPU, `mark` is one launch from now on: all that differs from time to time lies on the device."""
        self.marks = captured(self.mark).replay

    def mark(self) -> None:
        """What was touched, in every node's strip; then nothing is."""
        for touched in self.touched.values():
            touched.pool()
        for turn in self.turns:
            mask = turn.strip.mask
            for touched in self.touched.values():
                mask |= touched.over(mask.shape)
            if turn.forgets:
                assert turn.leaf.value is not None
                turn.leaf.value.masked_fill_(mask.view(torch.bool), math.nan)
        if self.turns:
            # There may be some; how many, only the device knows.
            torch._foreach_add_([turn.updated for turn in self.turns], 1)
        for touched in self.touched.values():
            touched.mask.zero_()

    def rest(self) -> None:
        """Nothing is computed anew in this frame."""
        clear(self.turns)

    def note(self, inputs: Sequence[Leaf], refreshed: Tensor | None) -> None:
        """Remember what the frame that ends changed of the inputs, and nothing of the streams that it refreshed."""
        if any(turn.is_set for turn in self.turns):
            return  # it computed anew what it took over
        if not self.touched:
            shapes = [turn.strip.mask.shape for turn in self.turns]
            self.touched = {number: Touched(leaf.mask, shapes) for number, leaf in enumerate(inputs)}
            self.set()  # nothing: what the device makes when it is first needed is made in the first frame
            self.rest()
        for number, leaf in enumerate(inputs):
            touched = self.touched[number].mask
            touched |= leaf.mask
            if refreshed is not None and len(touched) == len(refreshed):
                touched.masked_fill_(refreshed.view(-1, *[1] * (touched.dim() - 1)), 0)


class Touched:
    """The pixels of one input that were touched: `mask`, and what they reach of other grids, in memory of its own.

    A coarse grid is pooled from a finer one that is needed anyway, so that no thread goes through a whole picture. Its
    pixels are those over the touched ones and, where the grids do not divide each other, their neighbours.
    """

    def __init__(self, mask: Tensor, shapes: Sequence[Sequence[int]]):
        self.mask = torch.zeros_like(mask)
        rows, columns = mask.shape[2:] if is_picture(mask.shape) else (1, mask[0].numel())
        picture = torch.empty(len(mask), 1, rows, columns, device=mask.device)
        self.picture = picture.view(mask.shape)
        self.steps: list[Pooling] = []
        grids = {self.grid_over(shape) for shape in shapes} | {(1, 1)}
        for grid in sorted(grids - {(rows, columns)}, key=math.prod, reverse=True):
            finer = [step.maxima for step in self.steps if step.rows >= grid[0] and step.columns >= grid[1]]
            self.steps.append(Pooling([picture, *finer][-1], *grid))
        self.grids = {(step.rows, step.columns): step.mask for step in self.steps}
        self.grids.setdefault((rows, columns), self.mask.view(picture.shape))
        streams = self.steps[-1].maxima if self.steps else picture  # a pixel of each
        self.anywhere = Pooling(streams.view(1, 1, -1, 1), 1, 1)

    def grid_over(self, shape: Sequence[int]) -> Grid:
        """All of a stream is one pixel where one of the two is no picture."""
        return (shape[2], shape[3]) if is_picture(shape) and is_picture(self.mask.shape) else (1, 1)

    def pool(self) -> None:
        self.picture.copy_(self.mask)
        for step in (*self.steps, self.anywhere):
            step.run()

    def over(self, shape: Sequence[int]) -> Tensor:
        """The pixels of a mask of this shape over the touched ones, as of the last `pool`; to be broadcast to it."""
        if len(self.mask) != shape[0]:
            return self.anywhere.mask.view([1] * len(shape))
        found = self.grids[self.grid_over(shape)]
        return found if is_picture(shape) else found.view(-1, *[1] * (len(shape) - 1))


class Pooling:
    """The maxima of `[N, 1, H, W]` over a grid, also as a mask."""

    def __init__(self, finer: Tensor, rows: int, columns: int):
        self.finer, self.rows, self.columns = finer, rows, columns
        self.maxima = finer.new_empty(len(finer), 1, rows, columns)
        self.places = torch.empty_like(self.maxima, dtype=torch.int64)  # the operator tells them, too
        self.mask = torch.empty_like(self.maxima, dtype=torch.uint8)

    def run(self) -> None:
        pool(self.finer, [self.rows, self.columns], out=self.maxima, indices=self.places)
        self.mask.copy_(self.maxima)


def is_picture(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[1] == 1
