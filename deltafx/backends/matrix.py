"""Feature maps as the kernels see them: matrices of pixels and channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deltafx.state import Leaf

DTYPES = {
    "cpu": (torch.float32, torch.bfloat16),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}  # that have compiled kernels, by device


class NoKernel(Exception):
    """Why a node has no compiled kernel; the reference kernel runs it then."""


def matrix(tensor: Tensor, pixel: Sequence[int]) -> Tensor:
    """A view `[pixels, channels]` of a tensor whose mask has the shape `pixel`, in the order of the mask.

    Raises NoKernel where there is none: pixels at uneven distances, channels apart from each other, other dtypes.
    """
    if tensor.dtype not in DTYPES.get(tensor.device.type, ()):
        raise NoKernel(f"there are no compiled kernels for {tensor.dtype}")
    if len(pixel) != tensor.dim():
        raise NoKernel("its mask has another rank")
    spatial, channels = split_dims(tensor, pixel)
    count, pitch = collapse(tensor, spatial)
    width, step = collapse(tensor, channels)
    if width > 1 and step != 1:
        raise NoKernel("its channels do not lie side by side")
    # The distance between pixels does not matter where there is only one.
    return tensor.as_strided((count, width), (pitch if count > 1 else width, 1))


def matrix_of(leaf: Leaf) -> Tensor:
    assert leaf.value is not None
    return matrix(leaf.value, leaf.pixel)


def filled_up(leaf: Leaf) -> Tensor:
    """The pixels of a feature map, `[pixels, channels]`, with what its buffer is filled up with."""
    x, (_, sizes) = matrix_of(leaf), leaf.layout()
    whole = leaf.own and len(leaf.pixel) == len(leaf.shape) and sizes[-1] > x.shape[1]
    apart = x.shape[0] == 1 or x.stride(0) == sizes[-1]  # the stride of one pixel says nothing
    return x.as_strided((x.shape[0], sizes[-1]), (sizes[-1], 1)) if whole and apart else x


def split_dims(tensor: Tensor, pixel: Sequence[int]) -> tuple[list[int], list[int]]:
    """The dimensions that tell pixels apart, and those that are channels."""
    spatial = [d for d, size in enumerate(pixel) if size != 1 or tensor.shape[d] == 1]
    return spatial, [d for d in range(tensor.dim()) if d not in spatial]


def collapse(tensor: Tensor, dims: Sequence[int]) -> tuple[int, int]:
    """Size and stride of several dimensions taken as one."""
    size, stride = 1, 1
    for d in reversed(dims):
        if tensor.shape[d] == 1:
            continue
        if size == 1:
            stride = tensor.stride(d)
        elif tensor.stride(d) != size * stride:
            raise NoKernel("its pixels do not lie at even distances")
        size *= tensor.shape[d]
    return size, stride


def to_matrix(tensor: Tensor, pixel: Sequence[int]) -> Tensor:
    """`matrix` of a tensor that may lie in any way; copies where its channels do not lie side by side."""
    spatial, channels = split_dims(tensor, pixel)
    width = math.prod(tensor.shape[d] for d in channels)
    return tensor.permute(*spatial, *channels).reshape(-1, width).contiguous()
