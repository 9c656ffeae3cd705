"""Numbers on their way from a device to the host, which nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Arriving:
    """Single elements of one device and one dtype; on a CPU they are there at once."""

    def __init__(self, elements: Sequence[Tensor]):
        first = elements[0]
        self.numbers = torch.empty(len(elements), dtype=first.dtype, pin_memory=first.is_cuda)
        for place, element in zip(self.numbers, elements, strict=True):
            place.copy_(element, non_blocking=True)
        self.sent: torch.cuda.Event | None = None
        if first.is_cuda:
            self.sent = torch.cuda.Event()
            self.sent.record(torch.cuda.current_stream(first.device))

    def take(self) -> list[float] | None:
        """The numbers, once they are there."""
        return self.numbers.tolist() if self.sent is None or self.sent.query() else None
