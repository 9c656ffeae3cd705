"""What travels along an edge of the rewritten graph in one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """An update mask and a payload for the pixels in it.

    `mask` is uint8 and has the rank of the tensor, with size 1 in its channel dimensions: `[N, 1, H, W]` for a feature
    map, `[N, L, 1]` for tokens, `[N, 1]` for a vector per stream. It therefore says by itself which dimensions make up
    a pixel, broadcasts against the payload, and has the memory layout of `[N, *spatial]`.

    Exactly one payload is given. `value` is the tensor's persistent buffer, in which the new values stand.
    `difference` is new minus last propagated value, zero outside the mask; for the streams flagged in `fresh`, which
    are in refresh, it counts from 0: who accumulates it starts again.
    """

    mask: Tensor
    value: Tensor | None = None
    difference: Tensor | None = None
    fresh: Tensor | None = None  # broadcasts against the difference

    @property
    def payload(self) -> Tensor:
        payload = self.value if self.value is not None else self.difference
        assert payload is not None
        return payload

    # Shape arithmetic in the graph asks a delta what it would ask a tensor.
    @property
    def shape(self) -> torch.Size:
        return self.payload.shape

    @property
    def ndim(self) -> int:
        return self.payload.dim()

    @property
    def dtype(self) -> torch.dtype:
        return self.payload.dtype

    @property
    def device(self) -> torch.device:
        return self.payload.device

    @property
    def is_cuda(self) -> bool:
        return self.payload.is_cuda

    def dim(self) -> int:
        return self.payload.dim()

    def numel(self) -> int:
        return self.payload.numel()

    def is_floating_point(self) -> bool:
        return self.payload.is_floating_point()

    ndimension, nelement = dim, numel

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.payload.shape if dim is None else self.payload.shape[dim]

    def __len__(self) -> int:
        return self.payload.shape[0]


def deltas_in(nest: Any) -> list[Delta]:
    return [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Delta)]


def tensors_in(nest: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(nest) if isinstance(leaf, Tensor)]
