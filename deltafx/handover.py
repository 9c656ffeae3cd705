"""Handing a tensor from one converted graph to the next with what is known of its changes.

A tensor that leaves a graph says which of its pixels changed since the one before, so that a graph which is given it
need not compare it. What it says holds for that very tensor object, as it left, until its graph begins another frame: a
copy, a view, a reordered or resized batch carry nothing, one that was written to has another version, and one of an
older frame another time. Those are compared, as everybody else's. (A write through `.data` or NumPy escapes PyTorch's
count of versions, here as in autograd.)
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deltafx.ops.base import pixel_mask

ATTRIBUTE = "_deltafx_handover"  # of the tensor


class Clock:
    """Counts the frames that a plan has begun."""

    def __init__(self) -> None:
        self.time = 0


@dataclass(slots=True, eq=False)
class Handover:
    """What a tensor says of its changes. `mask` and `value` are those of the node it comes from, which the next frame
    overwrites; the value may lie in another way."""

    tensor: weakref.ref[Tensor]
    version: int
    value: weakref.ref[Tensor]
    mask: Tensor
    clock: Clock
    time: int

    def holds(self, tensor: Tensor) -> bool:
        return self.tensor() is tensor and tensor._version == self.version and self.clock.time == self.time

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of the tensor is another tensor."""

    def __reduce__(self) -> Any:
        return OrderedDict, ()  # nothing, of a type that every reader of saved tensors knows


def hand_over(tensor: Tensor, value: Tensor, mask: Tensor, clock: Clock) -> None:
    """Let a tensor that leaves a graph, which has it as `value`, say that only the pixels in `mask` changed since the
    last one left."""
    known = Handover(weakref.ref(tensor), tensor._version, weakref.ref(value), mask, clock, clock.time)
    setattr(tensor, ATTRIBUTE, known)


def handover_of(tensor: Any) -> Handover | None:
    given = getattr(tensor, ATTRIBUTE, None)
    return given if isinstance(given, Handover) else None


def as_it_was(tensor: Tensor) -> Tensor:
    """The same numbers as they lie in the graph that they come from, pixel by pixel, while they stand there."""
    given = handover_of(tensor)
    value = given.value() if given is not None and given.holds(tensor) else None
    return tensor if value is None else value


class Follower:
    """Of an input: which graph's output it was given last."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self.time = 0

    def changed(self, tensor: Tensor, pixel: tuple[int, ...]) -> Tensor | None:
        """The mask, of the shape `pixel`, of what changed since the last tensor; None if that has to be looked for."""
        given = handover_of(tensor)
        if given is None or not given.holds(tensor):
            self.forget()
            return None
        follows = given.mask is self.mask and given.time == self.time + 1
        self.mask, self.time = given.mask, given.time
        if not follows or given.mask.dim() != len(pixel):
            return None
        if given.mask.shape == pixel:
            return given.mask
        channels = [d for d, size in enumerate(pixel) if size == 1]
        return pixel_mask(given.mask, tensor.shape, channels).contiguous()  # as kernels read masks

    def forget(self) -> None:
        self.mask = None


def pixels_of(tensor: Tensor) -> tuple[int, ...] | None:
    """The shape of the mask that came with a tensor, or with the one it was copied from, if that still fits it."""
    given = handover_of(tensor)
    if given is None or given.mask.dim() != tensor.dim() or given.mask.shape[0] != tensor.shape[0]:
        return None
    pixel = tuple(given.mask.shape)
    return pixel if all(size in (1, full) for size, full in zip(pixel, tensor.shape, strict=True)) else None
