"""Convolutions of every kind, transposed ones, and fully connected layers: gathered pixels times packed weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from deltafx import _cpu
from deltafx.backends.cpu.kernel import Recipe
from deltafx.backends.cpu.matrix import NoKernel, matrix, to_matrix
from deltafx.backends.cpu.steps import Steps
from deltafx.backends.cpu.window import Window, same_pixels, sliding, table, transposed
from deltafx.ops import Conv, ConvTranspose, Linear, SamePadded
from deltafx.state import Leaf

# The compiled kernels are as fast as oneDNN where all pixels are computed, except for those named here, where dense is
# faster from these shares of computed pixels on (measured on resnext50_32x4d, a 4x4 transposed convolution of stride 2,
# and twice on resnet50: benchmarks/README.md).
NARROW_GROUPS = 0.8  # times the filled part of a panel of weights
TRANSPOSED = 0.25  # most of its taps read nothing
PORTABLE = 0.15  # plain C++ beside whatever oneDNN has for the processor
BFLOAT16 = 0.45  # where the processor multiplies bfloat16, which the compiled kernels do not
NEVER = math.inf


def conv(op: Conv, inputs: Sequence[Any], steps: Steps, isa: str) -> Recipe:
    return convolve(op, op, [before for before, _ in op.padding], inputs[0], steps, isa)


def same_padded(op: SamePadded, inputs: Sequence[Any], steps: Steps, isa: str) -> Recipe:
    if not isinstance(op.inner, Conv):
        raise NoKernel("pooling with TensorFlow's padding has no compiled kernel")
    sizes = zip(inputs[0].shape[2:], steps.out.shape[2:], op.kernel, op.stride, op.dilation, strict=True)
    before = [max(0, (new - 1) * s + (k - 1) * d + 1 - size) // 2 for size, new, k, s, d in sizes]
    return convolve(op.inner, op, before, inputs[0], steps, isa)


def convolve(op: Conv, whole: Any, before: Sequence[int], x: Leaf, steps: Steps, isa: str) -> Recipe:
    """The recipe of a convolution with `before` pixels of padding; `whole` computes it densely."""

    def axis(d: int) -> Tensor:
        sizes = x.shape[2 + d], steps.out.shape[2 + d]
        return sliding(*sizes, op.kernel[d], op.stride[d], op.dilation[d], before[d], op.padding_mode)

    window = image_window(x, op.rank, axis)
    weight, bias = op.weight.detach().float(), None if op.bias is None else op.bias.detach().float().contiguous()
    sources = [(x, "window")]
    out, per_group = weight.shape[0] // op.groups, weight.shape[1]
    if out == per_group == 1 and op.groups > 1:
        taps = weight.flatten(1).t().contiguous()
        return Recipe("depthwise", (matrix_of(x), taps, bias, *window.arguments), sources, window, steps)
    by_tap = weight.reshape(op.groups, out, per_group, -1).permute(0, 3, 2, 1)
    packed = pack(by_tap, isa)
    arguments = (matrix_of(x), packed, bias, op.groups, *window.arguments)
    share = NARROW_GROUPS * weight.numel() / packed.numel() if op.groups > 1 else NEVER
    share = min(share, dense_share(isa, x.dtype))
    return Recipe("convolve", arguments, sources, window, steps, dense(whole, x, steps), share)


def conv_transpose(op: ConvTranspose, inputs: Sequence[Any], steps: Steps, isa: str) -> Recipe:
    (x,) = inputs[:1]

    def axis(d: int) -> Tensor:
        sizes = x.shape[2 + d], steps.out.shape[2 + d]
        return transposed(*sizes, op.weight.shape[2 + d], op.stride[d], op.dilation[d], op.padding[d])

    window = image_window(x, op.rank, axis)
    weight = op.weight.detach().float()
    by_tap = weight.reshape(op.groups, -1, *weight.shape[1:]).flatten(3).permute(0, 3, 1, 2)
    bias = None if op.bias is None else op.bias.detach().float().contiguous()
    arguments = (matrix_of(x), pack(by_tap, isa), bias, op.groups, *window.arguments)
    share = min(TRANSPOSED, dense_share(isa, x.dtype))
    return Recipe("convolve", arguments, [(x, "window")], window, steps, dense(op, x, steps), share)


def linear(op: Linear, inputs: Sequence[Any], steps: Steps, isa: str) -> Recipe:
    (x,) = inputs[:1]
    width = op.weight.shape[1]
    if x.pixel != steps.out.pixel or matrix_of(x).shape[1] != width or x.shape[-1] != width:
        raise NoKernel("a linear layer along pixels has no compiled kernel")
    window = same_pixels(steps.out.pixels // x.pixel[0])
    by_tap = op.weight.detach().float().t().reshape(1, 1, width, -1)
    bias = None if op.bias is None else op.bias.detach().float().contiguous()
    arguments = (matrix_of(x), pack(by_tap, isa), bias, 1, *window.arguments)
    share = dense_share(isa, x.dtype)
    return Recipe("convolve", arguments, [(x, "same")], window, steps, dense(op, x, steps), share)


def dense_share(isa: str, dtype: torch.dtype) -> float:
    """The share of computed pixels from which oneDNN is faster than the compiled kernel for any convolution."""
    native = torch.cpu.get_capabilities()
    if dtype == torch.bfloat16 and (native.get("avx512_bf16") or native.get("amx_bf16")):
        return BFLOAT16
    return PORTABLE if isa == "portable" else NEVER


def pack(by_tap: Tensor, isa: str) -> Tensor:
    """Weights `[groups, taps, in, out]` as the kernel reads them: `[groups, panels, taps * in, panel]`."""
    groups, taps, per_group, out = by_tap.shape
    panel = _cpu.panel(isa)
    panels = -(-out // panel)
    padded = torch.zeros(groups, taps, per_group, panels * panel)
    padded[..., :out] = by_tap
    return padded.view(groups, taps * per_group, panels, panel).transpose(1, 2).contiguous()


def image_window(x: Leaf, rank: int, axis: Callable[[int], Tensor]) -> Window:
    """The window over a feature map `[N, C, H, W]` or, with one row, `[N, C, L]`."""
    if rank == 3:
        raise NoKernel("three spatial dimensions have no compiled kernel")
    if x.pixel != (x.shape[0], 1, *x.shape[2:]):
        raise NoKernel("its input is not a feature map with channels in dimension 1")
    if rank == 1:
        return Window(table([[0]]), axis(0), 1, x.shape[2])
    return Window(axis(0), axis(1), x.shape[2], x.shape[3])


def matrix_of(leaf: Leaf) -> Tensor:
    assert leaf.value is not None
    return matrix(leaf.value, leaf.pixel)


def dense(op: Any, x: Leaf, steps: Steps) -> Callable[[], Tensor]:
    return lambda: to_matrix(op(x.value), steps.out.pixel)
