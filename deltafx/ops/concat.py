"""Concatenation along an existing dimension (cat) or a new one (stack).

Dense spellings: `torch.cat`, `torch.concat`, `torch.concatenate`, `torch.stack`.
Mask rule: the union along channel dimensions, the concatenation of the masks along spatial ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from deltafx.ops.base import FRAME, Call, CallOfTwo, FunctionOp, Masks, Sample, seeded, union


class Concat(FunctionOp):
    """`torch.cat` of deltas and constants."""

    name = "cat"
    locality = "concatenation"
    takes_nests = True
    functions: ClassVar[tuple[Callable, ...]] = (torch.cat, torch.concat, torch.concatenate)

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        constant, token = torch.randn(2, 3, 11, 13), torch.randn(1, 1, 7)
        two = {
            "channels": lambda x, y: torch.cat([x, y], 1),
            "rows": lambda x, y: torch.cat((x, y, x), dim=2),
            "columns": lambda x, y: torch.concat([x, y * 2], -1),
            "axis": lambda x, y: torch.cat([x, y], axis=-3),  # type: ignore[call-arg]
            "concatenate": lambda x, y: torch.concatenate([x, y], 1),
        }
        one = {
            "repeated": lambda x: torch.cat([x, x * 2, x], 1),
            "constant": lambda x: torch.cat([x, constant], 1),
            "constant_rows": lambda x: torch.cat([constant[:, :1].expand(2, 7, 11, 13), x], 2),
            "chunks": lambda x: torch.cat(x.split([3, 4], 1)[::-1], 1),
            "tuple": lambda x: torch.cat(x.split([3, 4], 1), 1),
            "class_token": lambda x: torch.cat([token.expand(2, 1, 7), x.flatten(2).transpose(1, 2)], 1),
            "one_row": lambda x: torch.cat([x[:, :, :1], x[:, :, 5:6]], 2),
            "pooled": lambda x: torch.cat([x, x.mean((2, 3), keepdim=True).expand(2, 7, 11, 13)], 1),
        }
        samples = [Sample(name, CallOfTwo(function), (FRAME, FRAME)) for name, function in two.items()]
        return samples + [Sample(name, Call(function)) for name, function in one.items()]

    def tensors(self, inputs: Sequence[Any]) -> Sequence[Any]:
        return self.argument(inputs, 0, "tensors")

    def dim(self, rank: int) -> int:
        """The dimension of the result along which its parts lie."""
        return self.template(1, "dim", "axis", default=0) % rank

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        dim = self.dim(output.dim())
        parts = list(zip(self.tensors(inputs), self.tensors(masks), strict=True))
        shared = [mask for _, mask in parts if mask is not None]
        if all(mask.shape[dim] == 1 for mask in shared) and self.is_channel(dim, parts):
            return union(shared)
        rows = []
        for value, mask in parts:
            mask = unset(value) if mask is None else mask
            rows.append(mask.expand([*mask.shape[:dim], value.shape[dim], *mask.shape[dim + 1 :]]))
        pixel = [max(row.shape[d] for row in rows) for d in range(output.dim())]
        return torch.cat([r.expand([*pixel[:dim], r.shape[dim], *pixel[dim + 1 :]]) for r in rows], dim)

    @staticmethod
    def is_channel(dim: int, parts: Sequence[tuple[Any, Tensor | None]]) -> bool:
        """Whether `dim` is a channel dimension of the result: 1 by convention where all parts have size 1 there."""
        return dim == 1 or any(value.shape[dim] > 1 for value, mask in parts if mask is not None)

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        if not isinstance(self.template(1, "dim", "axis", default=0), int):
            return "its dimension is computed"
        ranks = {part.dim() for part in self.tensors(inputs)}
        return None if len(ranks) == 1 else "one of its parts is an empty vector"  # which PyTorch leaves out

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return self.dim(self.tensors(inputs)[0].dim()) == 0

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class Stack(Concat):
    """`torch.stack`: every delta is one slice of a new dimension."""

    name = "stack"
    functions = (torch.stack,)

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        constant = torch.randn(2, 7, 11, 13)
        two = {
            "before_channels": lambda x, y: torch.stack([x, y], 1),
            "after_channels": lambda x, y: torch.stack([x, y, x], dim=2),
            "last": lambda x, y: torch.stack((x, y), -1),
            "constant": lambda x, y: torch.stack((constant, x, y), 2),
            "new_channels": lambda x, y: torch.stack([x.mean(1), y[:, 0]], 1),
        }
        one = Sample("tuple", Call(lambda x: torch.stack(x.chunk(7, 1), 2)))
        return [*(Sample(name, CallOfTwo(function), (FRAME, FRAME)) for name, function in two.items()), one]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        dim = self.dim(output.dim())
        pairs = zip(self.tensors(inputs), self.tensors(masks), strict=True)
        parts = [(unset(value) if mask is None else mask).unsqueeze(dim) for value, mask in pairs]
        pixel = [max(part.shape[d] for part in parts) for d in range(output.dim())]
        stacked = torch.cat([part.expand(pixel) for part in parts], dim)
        return stacked if dim != 1 else stacked.amax(1, keepdim=True)

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return self.dim(self.tensors(inputs)[0].dim() + 1) == 0


def unset(value: Tensor) -> Tensor:
    """The mask of a tensor that does not change."""
    return torch.zeros([1] * value.dim(), dtype=torch.uint8, device=value.device)
