"""Work of a GPU that is launched at once, over and over."""

from __future__ import annotations

from collections.abc import Callable

import torch


def captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """What `work`, which has run before, launches on the current device; other threads may use it meanwhile."""
    graph = torch.cuda.CUDAGraph()
    # PyTorch's own stream for captures is of the device that captured first.
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
        work()
    return graph
