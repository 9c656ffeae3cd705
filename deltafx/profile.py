"""The time of every node, with `options={"profile": True}`: the one source of all times per node that are shown.

Each node adds to `NodeState.seconds` (of the last frame) and `seconds_sum` (since the last reset), which `report`
reads; tables, pictures, pages and benchmarks read the report.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from deltafx.graph_times import GraphTimes
from deltafx.state import NodeState

KEPT_FRAMES = 64  # whose events wait to be read


class HostTimer:
    """Where kernels return when they are done: wall-clock time.

    A frame that runs as one program is timed by that, which is asked when the times are wanted.
    """

    program: Any = None

    def run(self, state: NodeState, kernel: Callable, *args: Any) -> Any:
        start = time.perf_counter()
        result = kernel(*args)
        state.add_seconds(time.perf_counter() - start)
        return result

    def end_frame(self) -> None:
        """The frame ran to its end."""

    def settle(self) -> None:
        """What ran so far is in the states from here on."""
        if self.program is not None:
            self.program.take_times()


class DeviceTimer:
    """On a GPU: events before and behind each node's kernels, read later, so that no frame waits for the device.

    A captured frame reads the device's clock instead. Nodes that are launched from Python are NVTX ranges too.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.frames = 0
        self.marks: list[tuple[NodeState, Any, Any]] = []  # in order, not read yet
        self.free: list[Any] = []
        self.graphs: list[GraphTimes] = []  # of captured frames, not read yet
        self.capturing: GraphTimes | None = None
        self.running: GraphTimes | None = None  # of the running frame
        self.ran_last: GraphTimes | None = None  # of the last frame

    def run(self, state: NodeState, kernel: Callable, *args: Any) -> Any:
        with named_range(state.path):
            if self.capturing is not None:
                result = kernel(*args)
                self.capturing.mark(state)
                return result
            start, end, stream = self.event(), self.event(), torch.cuda.current_stream(self.device)
            start.record(stream)
            result = kernel(*args)
            end.record(stream)
        self.marks.append((state, start, end))
        return result

    def event(self) -> Any:
        return self.free.pop() if self.free else torch.cuda.Event(enable_timing=True)

    @contextlib.contextmanager
    def capture(self, times: GraphTimes) -> Iterator[None]:
        """Within it, nodes are captured, not run. What is captured first calls `begin`."""
        self.capturing = times
        try:
            yield
        finally:
            self.capturing = None

    def replayed(self, times: GraphTimes) -> None:
        """The running frame is a captured one."""
        self.running, times.fresh = times, True
        if times not in self.graphs:
            self.graphs.append(times)

    def end_frame(self) -> None:
        """The frame ran to its end."""
        self.running, self.ran_last = None, self.running
        self.frames += 1
        if self.frames >= KEPT_FRAMES:
            self.read_events()

    def settle(self) -> None:
        """What ran so far is in the states from here on. Waits for the device."""
        self.read_events()
        for times in self.graphs:
            times.take(times is self.ran_last)
        self.graphs = [self.ran_last] if self.ran_last is not None else []

    def read_events(self) -> None:
        """Waits for the last event."""
        marks, self.marks, self.frames = self.marks, [], 0
        if marks:
            marks[-1][2].synchronize()
        for state, start, end in marks:
            state.add_seconds(start.elapsed_time(end) / 1000)
            self.free += (start, end)


@contextlib.contextmanager
def named_range(path: str) -> Iterator[None]:
    """A range in the time line of NVIDIA's profilers."""
    torch.cuda.nvtx.range_push(path)
    try:
        yield
    finally:
        torch.cuda.nvtx.range_pop()


def captured_times(timer: HostTimer | DeviceTimer | None) -> GraphTimes | None:
    """Those of the frame that is being captured, with profiling."""
    return timer.capturing if isinstance(timer, DeviceTimer) else None


def timer_for(device: torch.device) -> HostTimer | DeviceTimer:
    return DeviceTimer(device) if device.type == "cuda" else HostTimer()
