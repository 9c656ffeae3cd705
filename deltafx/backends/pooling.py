"""Pooling and interpolation: a maximum, or a sum whose weights are those of the two axes multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deltafx.backends.matrix import NoKernel, matrix_of
from deltafx.backends.recipe import Recipe, Target
from deltafx.backends.steps import Steps
from deltafx.backends.window import NOTHING, adaptive, all_pixels, image_window, sliding
from deltafx.ops import AdaptivePool, AvgPool, Interpolate, MaxPool, Reduction
from deltafx.ops.base import tuple_of
from deltafx.ops.interpolate import axis_footprint, axis_weights
from deltafx.state import Leaf

# Where no size changes, PyTorch copies on a GPU, and multiplies no neighbour, which may not be a number, by 0.
COPIED_ON_CUDA = ("bilinear", "bicubic")


def recipe(x: Leaf, axes: Sequence[Tensor], shares: Sequence[Tensor] | None, steps: Steps) -> Recipe:
    """A pooling with one table, and unless it is a maximum one table of weights, for each spatial axis."""
    window = image_window(x, len(axes), lambda d: axes[d])
    weights: tuple[Tensor | None, ...] = (None, None)
    if shares is not None:
        one = torch.ones(window.rows.shape)
        weights = tuple(share.float().contiguous() for share in ([one, *shares] if len(axes) == 1 else shares))
    arguments = (matrix_of(x), shares is None, *weights, *window.arguments)
    return Recipe("pool", arguments, [(x, "window")], window, steps)


def max_pool(op: MaxPool, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    x, call = inputs[0], op.arguments(inputs)
    axes = [
        sliding(x.shape[2 + d], steps.out.shape[2 + d], kernel, stride, dilation, padding)
        for d, (kernel, stride, padding, dilation) in enumerate(windows(op.rank, call, call["dilation"]))
    ]
    return recipe(x, axes, None, steps)


def avg_pool(op: AvgPool, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    x, call = inputs[0], op.arguments(inputs)
    axes, shares = [], []
    divisor = call.get("divisor_override")
    for d, (kernel, stride, padding, _) in enumerate(windows(op.rank, call, 1)):
        size, new = x.shape[2 + d], steps.out.shape[2 + d]
        axis = sliding(size, new, kernel, stride, 1, padding)
        read = (axis != NOTHING).float()
        if divisor:
            count = torch.full((new, 1), float(divisor) if d == 0 else 1.0)
        elif call["count_include_pad"]:
            start = torch.arange(new) * stride - padding
            count = ((start + kernel).clamp(max=size + padding) - start).unsqueeze(1)
        else:
            count = read.sum(1, keepdim=True)
        axes.append(axis)
        shares.append(read / count)
    return recipe(x, axes, shares, steps)


def windows(rank: int, call: dict[str, Any], dilation: Any) -> list[tuple[int, int, int, int]]:
    """Kernel, stride, padding and dilation of each axis of a pooling's call."""
    kernel = tuple_of(call["kernel_size"], rank)
    stride = tuple_of(call["stride"], rank) if call["stride"] else kernel
    return list(zip(kernel, stride, tuple_of(call["padding"], rank), tuple_of(dilation, rank), strict=True))


def adaptive_pool(op: AdaptivePool, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    x = inputs[0]
    mean = "avg" in op.name
    if op.rank == 2 and op.locality == "global":
        return reduce(x, steps, maximum=not mean, scale=1 / (x.shape[2] * x.shape[3]) if mean else 1.0)
    axes = [adaptive(x.shape[2 + d], steps.out.shape[2 + d]) for d in range(op.rank)]
    reads = [(axis != NOTHING).float() for axis in axes]
    return recipe(x, axes, [read / read.sum(1, keepdim=True) for read in reads] if mean else None, steps)


def reduction(op: Reduction, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    x = inputs[0]
    scales = {"mean": 1 / (x.shape[2] * x.shape[3]), "sum": 1.0, "amax": 1.0} if len(x.shape) == 4 else {}
    known = {"dim", "axis", "keepdim", "keepdims"}
    if op.name not in scales or sorted(op.dims([torch.empty(x.shape, device="meta")])) != [2, 3]:
        raise NoKernel(f"{op.spelling} has a compiled kernel only as mean, sum or amax over H and W")
    if set(op.kwargs) - known:
        raise NoKernel(f"{op.spelling} with {', '.join(sorted(set(op.kwargs) - known))} has no compiled kernel")
    return reduce(x, steps, maximum=op.name == "amax", scale=scales[op.name])


def reduce(x: Leaf, steps: Steps, maximum: bool, scale: float) -> Recipe:
    """All pixels of a stream: partial results of its rows are kept, and those of touched rows computed again."""
    streams, channels, rows, columns = x.shape
    window = all_pixels(rows, columns)
    image_window(x, 2, lambda d: window.rows if d == 0 else window.columns)
    partial = torch.zeros(streams * rows, channels)
    arguments = (matrix_of(x), x.mask, rows, maximum, scale, partial)
    return Recipe("reduce", arguments, [(x, "window")], window, steps)


def interpolate(op: Interpolate, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    x, call = inputs[0], op.arguments(inputs)
    before, after = x.shape[2:], steps.out.shape[2:]
    if len(before) > 2:
        raise NoKernel("three spatial dimensions have no compiled kernel")
    axes, shares = [], []
    scales = op.scales(call, len(before))
    for size, new, scale in zip(before, after, scales, strict=True):
        options = (call["mode"], call["align_corners"], call["antialias"], len(before), x.device)
        first, last = (each.cpu() for each in axis_footprint(size, new, scale, *options))
        position = first.unsqueeze(1) + torch.arange(int((last - first).max()) + 1)
        read = position <= last.unsqueeze(1)
        weight = axis_weights(size, new, scale, *options).cpu().gather(1, position.clamp(max=size - 1))
        axes.append(torch.where(read, position, NOTHING).to(torch.int32).contiguous())
        shares.append(torch.where(read, weight, 0.0))
    if tuple(before) == tuple(after) and call["mode"] in COPIED_ON_CUDA and x.device.type == "cuda":
        return Recipe("copy", (matrix_of(x),), [(x, "window")], image_window(x, len(axes), lambda d: axes[d]), steps)
    return recipe(x, axes, shares, steps)
