"""What a frame on a GPU must do without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Within it, waiting for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def without_waiting_or_allocating() -> Iterator[None]:
    """Within it, so is asking PyTorch's allocator for the device's memory."""
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    with without_waiting():
        yield
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
