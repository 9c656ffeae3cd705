"""Refresh of what was touched: from time to time all that moved is computed anew, whatever thresholds withhold.

What is withheld stays behind where something came or went, such as a detection that is gone; where nothing passed the
input's gate there is little to put right. So the pixels that did pass since they were last computed anew are remembered
at the input and, every so many frames, every node computes its share of them. How a node is made to is told in
background.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deltafx.background import Turn
from deltafx.state import UPDATED, Leaf


class TouchedRefresh:
    """The rounds of one plan, of `every` frames each."""

    def __init__(self, every: int):
        self.every = every
        self.turns: list[Turn] = []
        self.touched: dict[int, Tensor] = {}  # masks, by input

    def add(self, leaf: Leaf, lag: float, forgets: bool) -> None:
        """A tensor with a mask and, if it `forgets`, a buffer; before its kernel is bound."""
        self.turns.append(Turn.of(leaf, lag, forgets))

    def begin(self, frame: int) -> None:
        """Set what this frame computes anew. What stood there is gone: the frame must run, or all be refreshed."""
        self.rest()
        if frame == 0 or frame % self.every:
            return
        for turn in self.turns:
            mask = turn.strip.mask
            for touched in self.touched.values():
                mask |= on_grid(touched, mask.shape)
            turn.strip.tally[UPDATED] = 1  # there may be some; how many, only the device knows
            turn.is_set = True
            if turn.forgets:
                assert turn.leaf.value is not None
                turn.leaf.value.masked_fill_(mask.bool(), math.nan)
        for touched in self.touched.values():
            touched.zero_()

    def rest(self) -> None:
        """Nothing is computed anew in this frame."""
        for turn in self.turns:
            turn.clear()

    def note(self, inputs: Sequence[Leaf], refreshed: Tensor | None) -> None:
        """Remember what the frame that ends changed of the inputs, and nothing of the streams that it refreshed."""
        if any(turn.is_set for turn in self.turns):
            return  # it computed anew what it took over
        for number, leaf in enumerate(inputs):
            touched = self.touched.setdefault(number, torch.zeros_like(leaf.mask))
            touched |= leaf.mask
            if refreshed is not None and len(touched) == len(refreshed):
                touched *= ~refreshed.view(-1, *[1] * (touched.dim() - 1))


def on_grid(touched: Tensor, shape: Sequence[int]) -> Tensor:
    """The pixels of another grid, `shape`, over those that were touched; all of a stream where it is no picture."""
    if is_picture(touched.shape) and is_picture(shape):
        return F.adaptive_max_pool2d(touched.float(), tuple(shape[2:])).to(torch.uint8)
    if len(touched) != shape[0]:
        return touched.amax().expand(tuple(shape))
    return touched.flatten(1).amax(1).view(-1, *[1] * (len(shape) - 1)).expand(tuple(shape))


def is_picture(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[1] == 1
