"""When is a change small enough to be withheld?"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltafx.errors import ConvertError

NORMS = ("rms", "max")


@dataclass(frozen=True)
class Threshold:
    """A change up to this size is withheld.

    `value` is a share of the root mean square of the node's output in its first full frame or, if `absolute`, in the
    units of the tensor. 0 withholds nothing but what is exactly equal.
    """

    value: float
    absolute: bool = False

    def __post_init__(self) -> None:
        if not is_number(self.value) or not 0 <= self.value < float("inf"):
            raise ConvertError(f"a threshold is a finite number, 0 or larger; got {self.value!r}")


def absolute(value: float) -> Threshold:
    """A threshold in the units of the tensor, instead of a share of its root mean square."""
    return Threshold(value, absolute=True)


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Truncation:
    """A truncation point: its threshold, and the norm of the change over a pixel's channels ("rms" or "max")."""

    threshold: Threshold
    norm: str = "rms"


def changed(new: Tensor, old: Tensor, pixel: Sequence[int], threshold: float | Tensor | None, norm: str) -> Tensor:
    """The mask of pixels that differ by more than `threshold` (None: at all).

    `pixel` is the shape of a mask of these tensors: 1 in their channel dimensions. A pixel counts as changed unless it
    is known not to be, so a non-finite value always does. At threshold 0 no norm is taken: squares underflow.
    """
    if new.is_quantized:
        new, old = new.int_repr(), old.int_repr()
    channels = [d for d, size in enumerate(pixel) if size == 1 and new.shape[d] != 1]
    if threshold is None:
        differs = ~(new == old)
    else:
        precise = torch.float64 if new.dtype == torch.float64 else torch.float32
        change = new.to(precise) - old.to(precise)
        if norm == "max":
            size = change.abs().amax(channels, keepdim=True) if channels else change.abs()
        else:
            size = change.square().mean(channels, keepdim=True).sqrt() if channels else change.abs()
        differs = ~(size <= threshold)
    if threshold is None and channels:
        differs = differs.any(dim=channels, keepdim=True)
    return differs.to(torch.uint8)


def root_mean_square(tensor: Tensor) -> float:
    return tensor.detach().double().square().mean().sqrt().item()
