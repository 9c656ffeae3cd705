"""What the zoo gives for a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from deltafx.preprocess import Preprocess


@dataclass(frozen=True)
class Entry:
    """A network with real weights, in evaluation mode.

    `preprocess(frame)` is its input for a uint8 RGB frame `[H, W, 3]`; give it to `convert(preprocess=...)` to have the
    converted network take such frames itself. Frame sides are multiples of `stride` pixels. `postprocess(outputs)`
    gives a list of what the outputs say of each stream: `Detections`, or a class.
    """

    name: str
    model: nn.Module
    preprocess: Preprocess
    postprocess: Callable[[Any], list[Any]]
    stride: int
    licence: str
    clip: str  # the asset it was tried on
