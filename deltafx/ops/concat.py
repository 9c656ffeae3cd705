"""Concatenation along an existing dimension (cat) or a new one (stack).

Dense spellings: `torch.cat`, `torch.concat`, `torch.concatenate`, `torch.stack`.
Mask rule: the union along channel dimensions, the concatenation of the masks along spatial ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deltafx.ops.base import FunctionOp, Masks, union


class Concat(FunctionOp):
    """`torch.cat` of deltas and constants."""

    name = "cat"
    locality = "concatenation"
    takes_nests = True
    functions = (torch.cat, torch.concat, torch.concatenate)

    @staticmethod
    def signature(tensors, dim=0): ...  # type: ignore[override]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        call = self.arguments(inputs)
        dim = self.dim(output.dim())
        parts = list(zip(call["tensors"], self.arguments(masks)["tensors"], strict=True))
        parts = [(value, mask) for value, mask in parts if value.numel()]  # cat ignores tensors of shape (0,)
        shared = [mask for _, mask in parts if mask is not None]
        if all(mask.shape[dim] == 1 for mask in shared) and self.is_channel(dim, parts):
            return union(shared)
        rows = []
        for value, mask in parts:
            mask = torch.zeros([1] * value.dim(), dtype=torch.uint8, device=value.device) if mask is None else mask
            rows.append(mask.expand([*mask.shape[:dim], value.shape[dim], *mask.shape[dim + 1 :]]))
        pixel = [max(row.shape[d] for row in rows) for d in range(output.dim())]
        return torch.cat([r.expand([*pixel[:dim], r.shape[dim], *pixel[dim + 1 :]]) for r in rows], dim)

    def dim(self, rank: int) -> int:
        """The dimension of the result along which its parts lie."""
        bound = inspect.signature(self.signature).bind(*self.args, **self.kwargs)
        return bound.arguments.get("dim", 0) % rank

    @staticmethod
    def is_channel(dim: int, parts: Sequence[tuple[Any, Tensor | None]]) -> bool:
        """Whether `dim` is a channel dimension of the result: 1 by convention where all parts have size 1 there."""
        return dim == 1 or any(value.shape[dim] > 1 for value, mask in parts if mask is not None)

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        call = self.arguments(inputs)
        return call["dim"] % call["tensors"][0].dim() == 0

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class Stack(Concat):
    """`torch.stack`: every delta is one slice of a new dimension."""

    name = "stack"
    functions = (torch.stack,)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        call = self.arguments(inputs)
        dim = self.dim(output.dim())
        parts = []
        for value, mask in zip(call["tensors"], self.arguments(masks)["tensors"], strict=True):
            if mask is None:
                mask = torch.zeros([1] * value.dim(), dtype=torch.uint8, device=value.device)
            parts.append(mask.unsqueeze(dim))
        pixel = [max(part.shape[d] for part in parts) for d in range(output.dim())]
        stacked = torch.cat([part.expand(pixel) for part in parts], dim)
        return stacked if dim != 1 else stacked.amax(1, keepdim=True)

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        call = self.arguments(inputs)
        return call["dim"] % (call["tensors"][0].dim() + 1) == 0
