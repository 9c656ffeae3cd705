"""Convolutions of every kind, transposed ones, and fully connected layers: gathered pixels times weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from deltafx.backends.matrix import NoKernel, matrix_of
from deltafx.backends.recipe import Product, Recipe, Target
from deltafx.backends.steps import Steps
from deltafx.backends.window import image_window, same_pixels, sliding, transposed
from deltafx.ops import Conv, ConvTranspose, Linear, SamePadded
from deltafx.state import Leaf


def conv(op: Conv, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    return convolve(op, op, [before for before, _ in op.padding], inputs[0], steps, target)


def same_padded(op: SamePadded, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    if not isinstance(op.inner, Conv):
        raise NoKernel("pooling with TensorFlow's padding has no compiled kernel")
    sizes = zip(inputs[0].shape[2:], steps.out.shape[2:], op.kernel, op.stride, op.dilation, strict=True)
    before = [max(0, (new - 1) * s + (k - 1) * d + 1 - size) // 2 for size, new, k, s, d in sizes]
    return convolve(op.inner, op, before, inputs[0], steps, target)


def convolve(op: Conv, whole: Any, before: Sequence[int], x: Leaf, steps: Steps, target: Target) -> Recipe:
    """The recipe of a convolution with `before` pixels of padding; `whole` computes it densely."""

    def axis(d: int) -> Tensor:
        sizes = x.shape[2 + d], steps.out.shape[2 + d]
        return sliding(*sizes, op.kernel[d], op.stride[d], op.dilation[d], before[d], op.padding_mode)

    window = image_window(x, op.rank, axis)
    weight = op.weight.detach().float()
    by_tap = weight.reshape(op.groups, -1, weight.shape[1], window.taps).permute(0, 3, 2, 1)
    return target.product(Product("convolution", x, by_tap, bias_of(op), window, steps, whole))


def conv_transpose(op: ConvTranspose, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    (x,) = inputs[:1]

    def axis(d: int) -> Tensor:
        sizes = x.shape[2 + d], steps.out.shape[2 + d]
        return transposed(*sizes, op.weight.shape[2 + d], op.stride[d], op.dilation[d], op.padding[d])

    window = image_window(x, op.rank, axis)
    weight = op.weight.detach().float()
    by_tap = weight.reshape(op.groups, -1, *weight.shape[1:]).flatten(3).permute(0, 3, 1, 2)
    return target.product(Product("transposed", x, by_tap, bias_of(op), window, steps, op))


def linear(op: Linear, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    (x,) = inputs[:1]
    width = op.weight.shape[1]
    if x.pixel != steps.out.pixel or matrix_of(x).shape[1] != width or x.shape[-1] != width:
        raise NoKernel("a linear layer along pixels has no compiled kernel")
    window = same_pixels(steps.out.pixels // x.pixel[0])
    by_tap = op.weight.detach().float().t().reshape(1, 1, width, -1)
    return target.product(Product("linear", x, by_tap, bias_of(op), window, steps, op))


def bias_of(op: Any) -> Tensor | None:
    return None if op.bias is None else op.bias.detach().float().contiguous()
