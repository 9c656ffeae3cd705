"""Timing of calls on a GPU, with its events: from when the host makes a call until the device has its result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch


def milliseconds(call: Callable[[], Any], count: int = 60, warm: int = 10) -> dict[str, float]:
    for _ in range(warm):
        call()
    return summary([once(call) for _ in range(count)])


def once(call: Callable[[], Any]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {"p50": statistics.median(ordered), "p99": ordered[math.ceil(0.99 * (len(ordered) - 1))]}


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    """The same work as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
