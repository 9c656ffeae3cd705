"""How the CUDA kernels multiply: on tensor cores, or channel by channel where groups are narrow."""

from __future__ import annotations

import torch
from torch import Tensor

from deltafx.backends.matrix import NoKernel, matrix_of
from deltafx.backends.recipe import Product, Recipe

STEP_BYTES = 128  # of depth that the kernel takes at once
WIDEST_WINDOW = 64  # rows and columns of taps, whose places stand in shared memory
NARROW = 16  # channels of a group: a tile of 64 would be mostly empty


def multiply(p: Product) -> Recipe:
    groups, _, per_group, out = p.weight.shape
    steps = p.steps
    if p.bias is not None:
        steps.channels("add", p.bias, 1.0)
    x = matrix_of(p.x)
    if groups > 1 and per_group <= NARROW and out <= NARROW:
        by_channel = p.weight.permute(1, 2, 0, 3).flatten(2).contiguous()
        return Recipe("depthwise", (x, by_channel, *p.window.arguments), [p.source], p.window, steps)
    if p.window.rows.shape[1] + p.window.columns.shape[1] > WIDEST_WINDOW:
        raise NoKernel(f"a window of more than {WIDEST_WINDOW} rows and columns has no compiled kernel")
    exact = p.x.dtype == torch.float32 and not rounds_to_tf32(p.kind)
    arguments = (x, pack(p.weight, p.x.dtype), groups, *p.window.arguments, exact)
    return Recipe("convolve", arguments, [p.source], p.window, steps)


def rounds_to_tf32(kind: str) -> bool:
    """Whether PyTorch's own operator would; asked when a plan is filled."""
    return torch.backends.cuda.matmul.allow_tf32 if kind == "linear" else torch.backends.cudnn.allow_tf32


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights `[groups, taps, in, out]` as the kernel reads them: `[groups * out, taps * in]`, filled up with zeros."""
    rows = weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1).to(dtype)
    step = STEP_BYTES // dtype.itemsize
    depth = -(-rows.shape[1] // step) * step
    return torch.nn.functional.pad(rows, (0, depth - rows.shape[1])).contiguous()
