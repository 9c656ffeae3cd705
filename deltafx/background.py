"""Background refresh: strip by strip every node is computed anew, whatever its thresholds withhold.

The strips of all nodes go down their pictures at one speed. That of a node follows those of its inputs at the distance
from which it reads them, so that it is computed from rows that this round has already seen to: when the last strip has
reached the bottom, every pixel is what the frames since the round began make it, and on a standing picture exact.
A strip is made to be computed by its mask, which the node collects as one more input, and to be propagated by writing
NaN over what was propagated last: a change that is not a number is never withheld.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx.state import UPDATED, Leaf

if TYPE_CHECKING:
    from deltafx.node import DeltaNode


@dataclass(eq=False)
class Turn:
    """A tensor that takes part: how far its strip is behind that of the input, in heights of the picture."""

    leaf: Leaf
    lag: float
    strip: Leaf  # its mask says which rows it is in this frame
    forgets: bool  # what was propagated last, so that it is propagated again
    is_set: bool = False  # there are rows in the mask; known here, so that no device is waited for

    @classmethod
    def of(cls, leaf: Leaf, lag: float, forgets: bool) -> Turn:
        """Give a leaf its strip."""
        strip = Leaf(leaf.shape, torch.uint8, leaf.device, (), pixel=leaf.pixel)
        strip.allocate_mask()
        leaf.strip = strip
        return cls(leaf, lag, strip, forgets)

    @property
    def updated(self) -> Tensor:
        """How many pixels of the strip are marked, as the device sees it; `[1]`."""
        return self.strip.tally.narrow(0, UPDATED, 1)


def clear(turns: Sequence[Turn]) -> None:
    """No strips in any: on a GPU, one launch for many."""
    strips = [turn for turn in turns if turn.is_set]
    if strips:
        torch._foreach_zero_([turn.strip.mask for turn in strips])
        torch._foreach_zero_([turn.updated for turn in strips])
    for turn in strips:
        turn.is_set = False


STRIPS = 4  # to a picture: lower ones cost more, since what reads them computes their borders too


class BackgroundRefresh:
    """The rounds of one plan. What changes in the middle of one is seen to by the next: two take `within` frames."""

    def __init__(self, within: int):
        self.frames = max(1, within // 2)
        self.turns: list[Turn] = []
        self.longest = 0.0

    def add(self, leaf: Leaf, lag: float, forgets: bool) -> None:
        """A tensor with a mask and, if it `forgets`, a buffer; before its kernel is bound."""
        self.turns.append(Turn.of(leaf, lag, forgets))
        self.longest = max(self.longest, lag)

    def begin(self, frame: int) -> None:
        """Set this frame's strips. What stood in them is gone: the frame must run, or its streams be refreshed."""
        place = frame % self.frames
        steps = math.ceil((1 + self.longest) * STRIPS)  # of a round: frames with strips, if there are enough
        before, after = (at * steps // self.frames / STRIPS for at in (place, place + 1))
        clear(self.turns)
        for turn in self.turns:
            leaf, strip = turn.leaf, turn.strip
            axis = row_axis(leaf.pixel)
            height = leaf.pixel[axis] if axis else 1
            first, end = (round_down((front - turn.lag) * height, height) for front in (before, after))
            if end == first:
                continue
            turn.is_set = True
            turn.updated.fill_(end - first)
            rows(strip.mask, axis, first, end).fill_(1)
            if turn.forgets:
                assert leaf.value is not None
                rows(leaf.value, axis, first, end).fill_(math.nan)

    def note(self, inputs: Sequence[Leaf], refreshed: Tensor | None) -> None:
        """What a frame changed is nothing to it."""

    def capture(self) -> None:
        """What it sets is other rows in every frame."""

    def rest(self) -> None:
        """No strips in this frame."""
        clear(self.turns)


def round_down(place: float, height: int) -> int:
    return min(max(math.floor(place + 1e-6), 0), height)


def row_axis(pixel: Sequence[int]) -> int:
    """The dimension along which strips are cut, the first of the picture's; 0 where there is one pixel a stream."""
    return next((d for d, size in enumerate(pixel) if d > 0 and size > 1), 0)


def rows(tensor: Tensor, axis: int, first: int, end: int) -> Tensor:
    return tensor.narrow(axis, first, end - first) if axis else tensor


def reach(node: DeltaNode, inputs: list[Any], masks: list[Any], result: Any) -> float:
    """From how far a node reads its inputs along the rows, in heights of the picture; 1: from everywhere.

    Found by its mask rule, for inputs of which the lower half has changed.
    """
    from torch.utils import _pytree as pytree

    found = 0.0

    def lower_half(mask: Tensor) -> Tensor:
        axis = row_axis(mask.shape)
        half = torch.zeros_like(mask)
        if axis:
            size = mask.shape[axis]
            rows(half, axis, size // 2, size).fill_(1)
        else:
            half.fill_(1)
        return half

    halves = pytree.tree_map_only(Tensor, lower_half, masks)
    heights = [mask.shape[row_axis(mask.shape)] for mask in pytree.tree_leaves(masks) if isinstance(mask, Tensor)]
    for mask in pytree.tree_leaves(node.candidates(halves, inputs, result)):
        if not isinstance(mask, Tensor):
            continue
        axis = row_axis(mask.shape)
        if not axis:
            return 1.0
        size = mask.shape[axis]
        touched = mask.amax([d for d in range(mask.dim()) if d != axis]).nonzero()
        first = int(touched[0]) if len(touched) else size
        found = max(found, 0.5 - first / size + 1 / size + max((1 / height for height in heights), default=0.0))
    return min(found, 1.0)
