"""How the CUDA kernels multiply: on tensor cores, or channel by channel where groups are narrow."""

from __future__ import annotations

import torch
from torch import Tensor

from deltafx.backends.cuda import dense
from deltafx.backends.matrix import NoKernel, filled_up, matrix_of
from deltafx.backends.recipe import Product, Recipe

STEP_BYTES, PIECE_BYTES = 128, 16  # of depth that the kernel takes at once, and that a thread loads
PIXEL_BYTES = 8  # of a frame's pixels of 16-bit numbers, which may be loaded by halves of a piece
ROWS = 64  # output channels that lie together
WIDEST_WINDOW = 64  # rows and columns of taps, whose places stand in shared memory
NARROW = 16  # channels of a group: a tile of 64 would be mostly empty


def multiply(p: Product) -> Recipe:
    groups, _, per_group, out = p.weight.shape
    steps = p.steps
    if p.bias is not None:
        steps.channels("add", p.bias, 1.0)
    x = matrix_of(p.x) if groups > 1 else filled_up(p.x)
    p.x.fill_is_read |= groups == 1 and x.shape[1] > per_group
    tf32 = rounds_to_tf32(p.kind)
    if groups > 1 and per_group <= NARROW and out <= NARROW:
        by_channel = p.weight.permute(1, 2, 0, 3).flatten(2)
        by_channel = by_channel.clone(memory_format=torch.contiguous_format)  # from a multiple of 16 bytes on
        whole = None if per_group == out == 1 else dense.product(p, x, tf32)
        return Recipe("depthwise", (x, by_channel, *p.window.arguments), [p.source], p.window, steps, whole)
    whole = dense.product(p, x, tf32)
    if p.window.rows.shape[1] + p.window.columns.shape[1] > WIDEST_WINDOW:
        raise NoKernel(f"a window of more than {WIDEST_WINDOW} rows and columns has no compiled kernel")
    weight = p.weight
    if groups == 1:
        weight = torch.nn.functional.pad(weight, (0, 0, 0, x.shape[1] - per_group))
    exact = p.x.dtype == torch.float32 and not tf32
    arguments = (x, pack(weight, p.x.dtype), groups, *p.window.arguments, exact)
    return Recipe("convolve", arguments, [p.source], p.window, steps, whole)


def rounds_to_tf32(kind: str) -> bool:
    """Whether PyTorch's own operator would; asked when a plan is filled."""
    return torch.backends.cuda.matmul.allow_tf32 if kind == "linear" else torch.backends.cudnn.allow_tf32


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights `[groups, taps, in, out]` as the kernel reads them: `[groups, out / 64, depth / step, 64, step]`.

    The depth is `[taps, in]`, filled up with zeros to whole steps. Where the channels are whole steps it is
    `[in / step, taps, step]`, so that what neighbouring taps gather is soon gathered again. In each of 64 rows of a
    step, the pieces of 16 bytes are exchanged as the kernel has them in shared memory.
    """
    step, piece = STEP_BYTES // dtype.itemsize, PIECE_BYTES // dtype.itemsize
    groups, _, channels, out = weight.shape
    rows = weight.permute(0, 3, 1, 2).to(dtype)
    if channels % step == 0:
        rows = rows.unflatten(3, (-1, step)).transpose(2, 3)
    rows = rows.flatten(2)
    rows = torch.nn.functional.pad(rows, (0, -rows.shape[2] % step, 0, -out % ROWS))
    blocks = rows.view(groups, -1, ROWS, rows.shape[2] // step, step // piece, piece).transpose(2, 3)
    row, place = torch.arange(ROWS).unsqueeze(1), torch.arange(step // piece)
    order = (place ^ (row & 7)).to(weight.device).view(1, 1, 1, ROWS, -1, 1).expand(blocks.shape)
    return blocks.gather(4, order).contiguous()
