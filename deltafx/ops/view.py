"""Operators that only rearrange their input: same elements, another shape or order.

Dense spellings: permute, transpose, squeeze, unsqueeze, expand, select, narrow, slicing and indexing with numbers,
chunk, split, unbind, view, reshape, flatten, unflatten (and so channel shuffle), as functions, methods and modules.
Mask rule: the same rearrangement of the mask. Where it can be done without moving data, the output's buffer is a view
of the input's and costs nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deltafx.ops.base import FunctionOp, Masks, Slot


class View(FunctionOp):
    """A rearrangement that PyTorch does on the strides alone."""

    name = "view"
    locality = "view"
    functions = (
        torch.permute, torch.transpose, torch.swapaxes, torch.swapdims, torch.movedim, torch.moveaxis, torch.squeeze,
        torch.unsqueeze, torch.select, torch.narrow, torch.chunk, torch.split, torch.tensor_split, torch.unbind,
        torch.t, torch.adjoint, torch.detach,
    )  # fmt: skip
    methods = (
        "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "select",
        "narrow", "chunk", "split", "tensor_split", "unbind", "t", "expand", "expand_as",
    )  # fmt: skip

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Any) -> Any:
        assert masks[0] is not None
        moved = self(masks[0].expand(inputs[0].shape), *inputs[1:])
        return collapse(moved) if isinstance(moved, Tensor) else type(moved)(map(collapse, moved))

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        """Sends the number of each row through the rearrangement and looks whether it comes out in its place."""
        shape = inputs[0].shape
        rows = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)) if shape else torch.zeros(())
        moved = self(rows.expand(shape), *inputs[1:])
        return not all(
            part.dim() > 0 and part.shape[0] == shape[0] and torch.equal(collapse(part).flatten(), rows.flatten())
            for part in ([moved] if isinstance(moved, Tensor) else moved)
        )

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class GetItem(View):
    """`x[index]` with numbers, slices, None and Ellipsis; on a tuple or a shape it is Python's own."""

    name = "getitem"
    takes_nests = True
    functions = (operator.getitem,)
    methods = ()

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        index = self.fill(inputs)[0][1]
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, (Tensor, list, bool)) for part in parts):
            return "it is indexed with a tensor or a list"
        return None


class Reshape(FunctionOp):
    """The same elements in another shape."""

    name = "reshape"
    locality = "view"
    modules = (nn.Flatten, nn.Unflatten)
    functions = (torch.reshape, torch.flatten, torch.unflatten, torch.ravel)
    methods = ("view", "reshape", "flatten", "unflatten", "ravel", "view_as", "reshape_as")

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        # `view` refuses some strides; which ones a buffer has is not the model's business.
        copying = {Tensor.view: Tensor.reshape, Tensor.view_as: Tensor.reshape_as}
        if not any(isinstance(a, torch.dtype) for a in args):
            function = copying.get(function, function)
        super().__init__(function, args, kwargs)

    @classmethod
    def from_module(cls, module: nn.Module) -> Reshape:
        if isinstance(module, nn.Flatten):
            return cls(torch.flatten, (Slot(0), module.start_dim, module.end_dim))
        assert isinstance(module, nn.Unflatten)
        return cls(torch.unflatten, (Slot(0), module.dim, module.unflattened_size))

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        return reshape_mask(masks[0], inputs[0].shape, output.shape)

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        return "it changes the dtype" if any(isinstance(v, torch.dtype) for v in self.args) else None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        output = self(torch.empty(inputs[0].shape, device="meta"), *inputs[1:])
        return output.dim() == 0 or inputs[0].dim() == 0 or output.shape[0] != inputs[0].shape[0]

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


def collapse(mask: Tensor) -> Tensor:
    """The mask with size 1 in every dimension along which it is one value by construction (stride 0)."""
    for d in range(mask.dim()):
        if mask.shape[d] > 1 and mask.stride(d) == 0:
            mask = mask.narrow(d, 0, 1)
    return mask


def reshape_mask(mask: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """The mask of a reshaped tensor.

    The dimensions fall into groups of equal size before and after (`[N, C, H, W]` to `[N, C, H * W]`: N, C and H·W).
    A group of spatial dimensions is reshaped, a group of channel dimensions stays one. Where a group mixes both, its
    elements become one pixel; but the streams, in dimension 0, are kept apart.
    """
    spatial = [size > 1 and mask.shape[d] == size for d, size in enumerate(before)]
    wanted = list(before)
    result: list[int] = []
    for old, new in reshape_groups(before, after):
        of_pixels = [d for d in old if spatial[d]]
        of_channels = [d for d in old if before[d] > 1 and not spatial[d]]
        if of_pixels and of_channels and 0 not in of_pixels:
            mask = mask.amax(of_pixels, keepdim=True)
        if of_pixels and (not of_channels or 0 in of_pixels):
            result += [after[d] for d in new]
        else:
            result += [1] * len(new)
            for d in old:
                wanted[d] = 1
    return mask.expand(wanted).reshape(result)


def reshape_groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest pairing of consecutive dimensions with equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old, new = [], []
        have, want = 1, 1
        while not (old or new) or have != want:
            if have <= want and i < len(before) or j >= len(after):
                have, i = have * before[i], i + 1
                old.append(i - 1)
            else:
                want, j = want * after[j], j + 1
                new.append(j - 1)
        groups.append((old, new))
    return groups
