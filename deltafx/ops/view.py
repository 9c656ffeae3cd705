"""Operators that only rearrange their input: same elements, another shape or order.

Dense spellings: permute, transpose, squeeze, unsqueeze, expand, select, narrow, slicing and indexing with numbers,
chunk, split, unbind, view, reshape, flatten, unflatten (and so channel shuffle), as functions, methods and modules.
Mask rule: the same rearrangement of the mask. Where it can be done without moving data, the output's buffer is a view
of the input's and costs nothing.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deltafx.ops.base import (
    FRAME,
    Call,
    CallOfTwo,
    FunctionOp,
    Masks,
    Sample,
    Slot,
    any_delta,
    everything,
    moves_streams,
    seeded,
)


class View(FunctionOp):
    """A rearrangement that PyTorch does on the strides alone."""

    name = "view"
    locality = "view"
    functions: ClassVar[tuple[Callable, ...]] = (
        torch.permute, torch.transpose, torch.swapaxes, torch.swapdims, torch.movedim, torch.moveaxis, torch.squeeze,
        torch.unsqueeze, torch.select, torch.narrow, torch.chunk, torch.split, torch.tensor_split, torch.unbind,
        torch.t, torch.adjoint, torch.detach,
    )  # fmt: skip
    methods: ClassVar[tuple[str, ...]] = (
        "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze", "unsqueeze", "select",
        "narrow", "chunk", "split", "tensor_split", "unbind", "t", "expand", "expand_as", "unfold",
    )  # fmt: skip

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        super().__init__(expand_like if function is Tensor.expand_as else function, args, kwargs)

    def forward(self, *inputs: Any) -> Any:
        result = super().forward(*inputs)
        moves = self.function is not expand_like and any(isinstance(x, Tensor) for x in inputs[1:])
        return pytree.tree_map_only(Tensor, torch.clone, result) if moves else result  # no view stays where it was

    @staticmethod
    def samples() -> list[Sample]:
        functions = {
            "permute": lambda x: x.permute(0, 2, 3, 1) + torch.permute(x, (0, 2, 3, 1)),
            "transpose": lambda x: torch.transpose(x, 1, 3) + x.swapaxes(-1, 1) + torch.swapdims(x, 1, 3),
            "transpose_rows": lambda x: x.transpose(2, 3),
            "movedim": lambda x: torch.movedim(x, 1, -1) + x.moveaxis((1,), (3,)),
            "tokens": lambda x: x.flatten(2).permute(0, 2, 1),
            "tokens_and_back": lambda x: x.flatten(2).transpose(1, 2).transpose(2, 1).unflatten(2, (11, 13)),
            "adjoint": lambda x: torch.adjoint(x),
            "t": lambda x: x.mean((2, 3)).t().t() + torch.t(torch.t(x.mean((2, 3)))),
            "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1),
            "squeeze_row": lambda x: torch.squeeze(x[:, :, 3:4], 2),
            "unsqueeze": lambda x: x.unsqueeze(2),
            "unsqueeze_last": lambda x: torch.unsqueeze(x, -1),
            "expand": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 11, 13),
            "expand_as": lambda x: x.mean(1, keepdim=True).expand_as(x),
            "select": lambda x: x.select(2, 5) + torch.select(x, 2, 6),
            "select_channel": lambda x: x.select(1, 3),
            "narrow": lambda x: torch.narrow(x, 3, 2, 9).narrow(1, 0, 2),
            "chunk": lambda x: x.chunk(2, 1),
            "chunk_rows": lambda x: torch.chunk(x, 3, dim=2),
            "split": lambda x: torch.split(x, [2, 5], dim=1),
            "split_columns": lambda x: x.split(4, -1),
            "tensor_split": lambda x: x.tensor_split(3, dim=2),
            "unbind": lambda x: torch.unbind(x, 1),
            "unbind_rows": lambda x: x.unbind(2),
            "unfold": lambda x: x.unfold(2, 3, 2),
            "unfold_channels": lambda x: x.unfold(1, 2, 3),
        }
        return [Sample(name, Call(function)) for name, function in functions.items()]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Any) -> Any:
        assert masks[0] is not None
        moved = self(masks[0].expand(inputs[0].shape), *inputs[1:])
        return collapse(moved) if isinstance(moved, Tensor) else type(moved)(map(collapse, moved))

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        by_tensor = self.function is not expand_like and any(isinstance(x, Tensor) for x in inputs[1:])
        return "it is indexed with a tensor" if by_tensor else None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return moves_streams(self, inputs)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class GetItem(View):
    """`x[index]` with numbers, slices, None, Ellipsis and lists of places; of a tuple or a shape it is Python's own."""

    name = "getitem"
    takes_nests = True
    functions: ClassVar[tuple[Callable, ...]] = (operator.getitem,)
    methods = ()

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        order, grid = torch.tensor([3, -1, 0, 0]), torch.tensor([[2, 0], [1, 5]])
        functions = {
            "channels": lambda x: x[:, 2:5],
            "crop": lambda x: x[..., 1:-2, 3:],
            "strided": lambda x: x[:, :, ::2, 1::3],
            "number": lambda x: x[:, 3],
            "row": lambda x: x[:, :, -1],
            "none": lambda x: x[:, None, ..., None],
            "computed": lambda x: x[:, :, : x.shape[2] // 2],
            "of_chunk": lambda x: x.chunk(2, 1)[1],
            "list": lambda x: x[:, [2, 1, 0]],
            "list_of_rows": lambda x: x[:, 1:, [5, 5, -1]],
            "list_of_streams": lambda x: x[[1, 0]],
            "tensor": lambda x: x[..., order],
            "tensor_and_none": lambda x: x[:, None, :, order, 1:],
            "table": lambda x: x[:, grid],
            "table_of_rows": lambda x: x[:, :, grid],
            "two_tensors": lambda x: x[:, :, order, order],
            "tensor_and_number": lambda x: x[:, 1, order],
            "computed_place": lambda x: x[:, :, x.abs().mean((0, 1, 3)).argmax()],
        }
        return [Sample(name, Call(function)) for name, function in functions.items()]

    def index(self, inputs: Sequence[Any]) -> tuple:
        index = self.fill(inputs)[0][1]
        return index if isinstance(index, tuple) else (index,)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Any) -> Any:
        if masks[0] is None or any_delta(masks[1:]):
            return everything(masks, inputs, output)  # the place depends on the frame
        plain, dim, places = lone_list(self.index(inputs), inputs[0].dim())
        mask = collapse(masks[0].expand(inputs[0].shape)[plain])
        if places is None or mask.shape[dim] == 1:
            return mask
        return mask[(slice(None),) * dim + (places,)]

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        return "it is indexed with a mask" if any(map(is_boolean, self.index(inputs))) else None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        computed = [x for x in inputs[1:] if isinstance(x, Tensor)]
        return any(x.shape[:1] == inputs[0].shape[:1] for x in computed) or super().mixes_streams(inputs)


def lone_list(index: tuple, rank: int) -> tuple[tuple, int, Any]:
    """The index without its only list of places, and the dimension of the result to which that applies.

    Several lists, a table, and a list beside numbers go by rules of their own: the index is left as it is.
    """
    lists = [part for part in index if isinstance(part, list) or (isinstance(part, Tensor) and part.dim() > 0)]
    table = any(isinstance(part, Tensor) and part.dim() > 1 for part in lists)
    table = table or any(isinstance(part, list) and any(isinstance(x, (list, Tensor)) for x in part) for part in lists)
    if len(lists) != 1 or table or any(isinstance(part, (int, Tensor)) for part in index if part is not lists[0]):
        return index, 0, None
    place = next(i for i, part in enumerate(index) if part is lists[0])
    dim = place
    if Ellipsis in [part for part in index[:place] if not isinstance(part, (Tensor, list))]:
        dim += rank - sum(part is not None and part is not Ellipsis for part in index) - 1
    return (*index[:place], slice(None), *index[place + 1 :]), dim, lists[0]


def is_boolean(part: Any) -> bool:
    if isinstance(part, list):
        return any(map(is_boolean, part))
    return isinstance(part, bool) or (isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8))


class Attribute(GetItem):
    """`x.mT` and other attributes that are views; on a named tuple of tensors, `.values`, it is Python's own."""

    name = "attribute"
    functions: ClassVar[tuple[Callable, ...]] = (builtins.getattr,)
    views = ("T", "mT", "H", "mH", "data")

    @staticmethod
    def samples() -> list[Sample]:
        functions = {
            "transposed": lambda x: x.mT + x.mH,
            "transposed_vectors": lambda x: x.mean((2, 3)).T.T + x.mean((2, 3)).H.H,
            "data": lambda x: x.data,
            "of_named_tuple": lambda x: x.max(1).values - x.min(1).values,
        }
        return [Sample(name, Call(function)) for name, function in functions.items()]

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Any) -> Any:
        return View.candidates(self, masks, inputs, output)

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        return None if self.args[1] in self.views else f"nothing is known of its attribute {self.args[1]!r}"


class Reshape(FunctionOp):
    """The same elements in another shape."""

    name = "reshape"
    locality = "view"
    module_types = (nn.Flatten, nn.Unflatten)
    functions = (torch.reshape, torch.flatten, torch.unflatten, torch.ravel)
    methods = ("view", "reshape", "flatten", "unflatten", "ravel", "view_as", "reshape_as")

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        copying: dict[Callable, Callable] = {Tensor.view: view, Tensor.view_as: Tensor.reshape_as}
        super().__init__(copying.get(function, function), args, kwargs)

    @staticmethod
    def samples() -> list[Sample]:
        functions = {
            "flatten_head": lambda x: torch.flatten(x.mean((2, 3), keepdim=True), 1),
            "flatten_all": lambda x: x.flatten(1),
            "flatten_rows": lambda x: x.flatten(2),
            "view": lambda x: x.view(x.size(0), -1, 13),
            "split_rows": lambda x: x[:, :, :10].reshape(2, 7, 5, 2, 13),
            "windows": lambda x: x[:, :, :10, :12].reshape(2, 7, 5, 2, 6, 2).transpose(3, 4).reshape(2, 7, 30, 4),
            "unflatten": lambda x: x.unflatten(2, (1, 11)),
            "vector_to_map": lambda x: x.mean((2, 3)).view(2, 7, 1, 1),
            "streams": lambda x: x.reshape(14, 11, 13) + x.view(-1, 11, 13),
            "all": lambda x: torch.ravel(x) + x.ravel(),
        }
        shuffles = {
            "channel_shuffle": lambda x: x.view(2, 3, 2, 11, 13).transpose(1, 2).reshape(2, 6, 11, 13),
            "torch": lambda x: torch.reshape(torch.unflatten(x, 1, (2, 3)), (2, 6, -1)),
            "heads": lambda x: x.flatten(2).transpose(1, 2).reshape(2, 143, 3, 2).permute(0, 2, 1, 3),
        }
        return [
            *(Sample(name, Call(function)) for name, function in functions.items()),
            *(Sample(name, Call(function), ((2, 6, 11, 13),)) for name, function in shuffles.items()),
            Sample("as", CallOfTwo(lambda x, y: x.view_as(y) + x.reshape_as(y)), (FRAME, (2, 77, 13))),
            Sample("module", nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (11, 13)))),
        ]

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
        args, kwargs = self.fill(inputs)
        retypes = any(isinstance(value, torch.dtype) for value in (*args, *kwargs.values()))
        return "it changes the dtype" if retypes else None

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        output = self(torch.empty(inputs[0].shape, device="meta"), *inputs[1:])
        return output.dim() == 0 or inputs[0].dim() == 0 or output.shape[0] != inputs[0].shape[0]

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


def view(x: Tensor, *shape: Any, size: Any = None, dtype: torch.dtype | None = None) -> Tensor:
    """`x.view` whatever the strides: which ones a buffer has is not the model's business."""
    if dtype is None and not any(isinstance(part, torch.dtype) for part in shape):
        return x.reshape(*shape) if size is None else x.reshape(size)
    return x.view(dtype or shape[0])


def expand_like(x: Tensor, other: Any) -> Tensor:
    """`x.expand_as(other)`, of which only the shape is read."""
    return x.expand(other.shape)


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
        old: list[int] = []
        new: list[int] = []
        have, want = 1, 1
        while not (old or new) or have != want:
            if (have <= want and i < len(before)) or j >= len(after):
                have, i = have * before[i], i + 1
                old.append(i - 1)
            else:
                want, j = want * after[j], j + 1
                new.append(j - 1)
        groups.append((old, new))
    return groups
