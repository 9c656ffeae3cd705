"""How far two results are apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def tensors_of(result: Any) -> list[Tensor]:
    """The tensors of a model's output, whatever it is made of, in order."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_of([getattr(leaf, each.name) for each in dataclasses.fields(leaf)])
    return found


def relative_error(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The L2 norm of the difference over that of `want`, in float64, over all tensors together.

    Non-finite elements must stand at the same places, and be the same; then they do not count. Otherwise, or where
    shapes differ, the error is infinite.
    """
    squared_error = squared_norm = 0.0
    for a, b in zip(got, want, strict=True):
        if a.shape != b.shape:
            return float("inf")
        a, b = a.detach().double().to(b.device), b.detach().double()
        settled = (a == b) | (a.isnan() & b.isnan())
        zero = torch.zeros((), dtype=torch.float64, device=b.device)
        squared_error += torch.where(settled, zero, a - b).square().sum().item()
        squared_norm += torch.where(b.isfinite(), b, zero).square().sum().item()
    if squared_error == 0:
        return 0.0
    error = (squared_error / squared_norm) ** 0.5 if squared_norm else float("inf")
    return error if error == error else float("inf")
