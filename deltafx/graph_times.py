"""The time of every node of a captured frame, by the device's own clock, which is read behind each of them.

Events recorded between two kernels keep the start of the second from overlapping with the end of the first, which costs
a seventh of a frame with few updates (benchmarks/README.md). The clock is read by a kernel that overlaps like others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from deltafx.state import NodeState

NANOSECOND = 1e-9


class GraphTimes:
    """The captured graph writes `ticks`: when each node was done in the last frame, and the sum of that over all.

    The first place is the beginning. Nothing is read before it is wanted.
    """

    def __init__(self, device: torch.device, states: Sequence[NodeState]):
        self.states = list(states)  # in the order in which they run
        self.places = {id(state): number for number, state in enumerate(states, 1)}
        self.ticks = torch.zeros(2, len(states) + 1, dtype=torch.int64, device=device)
        self.taken = [0] * len(states)  # ns of each node, of the frames before
        self.fresh = False  # it ran since they were read

    def begin(self) -> None:
        """What is captured from here on belongs to the first node."""
        self.tick(0, 1)

    def mark(self, state: NodeState, count: int = 1) -> None:
        """All kernels of a node are captured, and with them those of the next `count` - 1 nodes, which take no time."""
        self.tick(self.places[id(state)], count)

    def tick(self, place: int, count: int) -> None:
        torch.ops.deltafx_cuda.tick.default(self.ticks, place, count)

    def take(self, ran_last: bool) -> None:
        """Adds to the states what came since the last time; `ran_last`: the last frame was one of this graph."""
        if not self.fresh:
            return
        self.fresh = False
        torch.cuda.synchronize(self.ticks.device)  # whichever stream the frames ran on
        last, sums = (spans(row) for row in self.ticks.tolist())
        for index, state in enumerate(self.states):
            state.seconds_sum += NANOSECOND * signed(sums[index] - self.taken[index])
            if ran_last:
                state.seconds = NANOSECOND * last[index]
        self.taken = sums


def spans(row: list[int]) -> list[int]:
    return [signed(end - start) for start, end in pairwise(row)]


def signed(count: int) -> int:
    """Sums of the clock wrap around."""
    return (count + 2**63) % 2**64 - 2**63
