"""The state of one plan: what every node keeps from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Form:
    """What a plan fixes of a tensor."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def __str__(self) -> str:
        return f"a tensor of shape {tuple(self.shape)}"


@dataclass(eq=False)
class Leaf:
    """The state behind one output tensor of a node (most have one; a `chunk` has several).

    `value` is what downstream saw last. With `aliased`, it is a view of an input's buffer and moves by itself.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    stride: tuple[int, ...]
    value: Tensor | None = None
    mask: Tensor | None = None
    aliased: bool = False
    threshold: Tensor | None = None  # of the last frame, in units of the tensor; None: 0
    # float64 [3], on the device: share of the pixels in the last frame, and since the last reset its sum and its count
    computed: Tensor | None = None
    updated: Tensor | None = None

    @property
    def form(self) -> Form:
        return Form(self.shape, self.dtype, self.device)

    @property
    def bytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def count(self, candidates: Tensor, update: Tensor) -> None:
        for name, mask in (("computed", candidates), ("updated", update)):
            share = mask.to(torch.float32).mean().double()
            total = getattr(self, name)
            if total is None:
                setattr(self, name, torch.stack([share, share, torch.ones_like(share)]))
            else:
                total[0] = share
                total[1] += share
                total[2] += 1

    def forget_counts(self) -> None:
        self.computed = self.updated = None


@dataclass(eq=False)
class NodeState:
    """What one node keeps: a leaf for each output tensor and, with `difference` payload, its accumulated inputs."""

    path: str
    nest: Any = None  # its output, with a Leaf for each tensor
    aligned: bool = True  # row n of every output belongs to stream n; else a refresh of one stream is one of all
    reason: str | None = None  # why the mask rule does not apply to these shapes
    random: bool = False  # draws random numbers, so that its output changes by itself
    dense: bool = False  # computes every pixel in every frame
    linear: int = 0  # with `difference` payload: how many of the stages work on differences
    keeps_value: bool = True  # with `difference` payload, a linear node without a threshold keeps none
    macs: int = 0  # of a dense frame
    operands: list[torch.Size] = field(default_factory=list)  # shapes of the input tensors
    predicted_bytes: int = 0
    accumulated: dict[Any, Tensor] = field(default_factory=dict)  # by node input; None: the linear stages
    offset: Any = None  # the linear stages' result for zero inputs: their bias
    last_frame: int = -1
    rows: Tensor | None = None  # this frame's refresh flags, [N] or [] for a node that is not aligned

    def __post_init__(self) -> None:
        self.leaves = [leaf for leaf in tree_leaves(self.nest) if isinstance(leaf, Leaf)]

    def refresh(self, rank: int) -> Tensor:
        """This frame's refresh flags as a mask that broadcasts against an output of the given rank."""
        assert self.rows is not None
        return self.rows.view(-1, *[1] * (rank - 1)) if self.rows.dim() else self.rows

    def tensors(self) -> Sequence[Tensor]:
        """Every buffer the node owns."""
        own = [leaf.value for leaf in self.leaves if leaf.value is not None and not leaf.aliased]
        masks = [leaf.mask for leaf in self.leaves if leaf.mask is not None]
        offset = [t for t in tree_leaves(self.offset) if isinstance(t, Tensor)]
        return [*own, *masks, *self.accumulated.values(), *offset]
