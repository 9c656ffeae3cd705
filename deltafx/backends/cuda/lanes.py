"""Nodes that do not need each other side by side: each is in a lane, which is a stream when a frame is captured.

A frame of few updates is a chain of kernels that leave most of a GPU idle, so that two chains take as long as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from deltafx.delta import Delta
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan

MOST_LANES = 4


class Lanes:
    """Those of a plan. Nodes enter them in the order in which they run.

    A node follows the last one of a lane, if it reads that. Else it opens a lane, or takes the one that was entered
    least recently of those whose last node has been read, so that what comes after it is elsewhere.
    """

    def __init__(self) -> None:
        self.last: list[set[int]] = []  # of each lane, the outputs of its last node
        self.entered: list[int] = []  # of each lane, when
        self.nodes = 0
        self.read: set[int] = set()
        self.streams: dict[int, torch.cuda.Stream] = {}

    @classmethod
    def of(cls, plan: Plan) -> Lanes:
        return plan.scratch.setdefault("lanes", cls())

    def enter(self, state: NodeState, inputs: Sequence[Any]) -> None:
        reads = {id(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Leaf)}
        lane = self.lane_for(reads)
        self.read |= reads
        self.last[lane] = {id(leaf) for leaf in state.leaves}
        self.entered[lane] = self.nodes
        self.nodes += 1
        for leaf in state.leaves:
            leaf.lane = lane

    def lane_for(self, reads: set[int]) -> int:
        follows = [lane for lane, last in enumerate(self.last) if last & reads]
        if follows:
            return follows[0]
        if len(self.last) < MOST_LANES:
            self.last.append(set())
            self.entered.append(0)
            return len(self.last) - 1
        free = [lane for lane, last in enumerate(self.last) if last <= self.read]
        return min(free or range(MOST_LANES), key=self.entered.__getitem__)

    def stream(self, lane: int) -> torch.cuda.Stream:
        if lane not in self.streams:
            self.streams[lane] = torch.cuda.Stream()
        return self.streams[lane]


class Schedule:
    """Nodes that are captured one after the other, each in its lane and after what it reads.

    `outside`: the leaves that they read of other nodes, each once.
    """

    def __init__(self, calls: Sequence[tuple[DeltaNode, tuple]], plan: Plan):
        self.known = Lanes.of(plan)
        states = [plan.nodes[module.path] for module, _ in calls]
        # Nodes that are timed have the device to themselves.
        self.lanes = [0 if plan.profiles else state.leaves[0].lane for state in states]
        # By mask, each leaf and the number of the node that writes it.
        known: dict[int, tuple[Leaf, int | None]] = {
            id(leaf.mask): (leaf, None) for state in plan.nodes.values() for leaf in state.leaves
        }
        known.update({id(leaf.mask): (leaf, n) for n, state in enumerate(states) for leaf in state.leaves})
        self.awaits: list[list[int]] = []
        outside: dict[int, Leaf] = {}
        for lane, (_, args) in zip(self.lanes, calls, strict=True):
            before = set()
            for delta in pytree.tree_leaves(args):
                if not isinstance(delta, Delta):
                    continue
                leaf, number = known[id(delta.mask)]
                if number is None:
                    outside[id(leaf.mask)] = leaf
                elif self.lanes[number] != lane:
                    before.add(number)
            self.awaits.append(sorted(before))
        self.outside = list(outside.values())

    def run(self, each: Callable[[int], None]) -> None:
        """Call `each` with the number of every node; the current stream is captured."""
        main = torch.cuda.current_stream()
        begun = main.record_event()
        done: dict[int, torch.cuda.Event] = {}
        streams = {self.lanes[0]: main}
        awaited = {number for numbers in self.awaits for number in numbers}
        for number, (lane, before) in enumerate(zip(self.lanes, self.awaits, strict=True)):
            if lane not in streams:
                streams[lane] = self.known.stream(lane)
                streams[lane].wait_event(begun)
            for other in before:
                streams[lane].wait_event(done[other])
            with torch.cuda.stream(streams[lane]):
                each(number)
            if number in awaited:
                done[number] = streams[lane].record_event()
        for stream in streams.values():
            if stream != main:
                main.wait_event(stream.record_event())
