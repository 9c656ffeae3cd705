"""Which share of its input's pixels a sequence of frames updated, as it is told without waiting for a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltafx.arriving import Arriving
from deltafx.state import UPDATED_SUM

if TYPE_CHECKING:
    from deltafx.plan import Plan


class UpdateRate:
    """That of the frames since the last reset, of the input of which it is largest.

    Frames that refreshed every stream do not count: what they update is not the camera's doing.
    """

    def __init__(self, plan: Plan):
        leaves = [leaf for node in plan.inputs for leaf in node.leaves]
        self.full, self.counted = plan.full_frames, plan.counted_frames - plan.full_frames
        self.pixels = [leaf.pixels for leaf in leaves]
        self.updated = Arriving([leaf.tally[UPDATED_SUM] for leaf in leaves])

    def take(self) -> float | None:
        """The rate, once it is here."""
        updated = self.updated.take()
        if updated is None:
            return None
        frames = max(sum / pixels for sum, pixels in zip(updated, self.pixels, strict=True))
        return (frames - self.full) / self.counted
