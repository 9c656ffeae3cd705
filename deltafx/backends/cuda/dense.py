"""The dense form of a node: every pixel is computed, by cuDNN where there is a convolution, into the same buffer.

It looks at no mask. What runs the node sparsely would write the same, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deltafx.backends.matrix import NoKernel, matrix
from deltafx.backends.recipe import Product, Recipe
from deltafx.ops import Conv
from deltafx.state import Leaf

if TYPE_CHECKING:
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda
cudnn_convolution = torch.ops.aten.cudnn_convolution.out

LEAST_CHANNELS = 3  # with fewer, strides do not tell in which order the dimensions of a tensor lie


def convolution(p: Product, filled_up: Tensor, allow_tf32: bool) -> Callable[..., Tensor] | None:
    """What writes a convolution's whole result, without bias, to a tensor `[N, C, H, W]`; None if cuDNN does not.

    `filled_up` is the input's matrix, with the zeros that its buffer was filled up with where there are no groups.
    cuDNN chooses how, by trying with `torch.backends.cudnn.benchmark`, and as it does for every other network.
    """
    op, x = p.whole, p.x.value
    assert x is not None
    if type(op) is not Conv or op.rank != 2 or op.padding_mode != "constant" or x.shape[1] < LEAST_CHANNELS:
        return None
    if any(before != after for before, after in op.padding):
        return None
    weight = op.weight.detach()
    if op.groups == 1:
        streams, channels, rows, columns = x.shape
        more = filled_up.shape[1] - channels
        x = filled_up.as_strided((streams * rows * columns, channels + more), filled_up.stride())
        x = x.unflatten(0, (streams, rows, columns)).permute(0, 3, 1, 2)
        weight = torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, more))
    weight = weight.to(x.device, x.dtype).contiguous(memory_format=torch.channels_last)
    padding = [before for before, _ in op.padding]
    arguments = (x, weight, padding, list(op.stride), list(op.dilation), op.groups)

    def run(into: Tensor) -> Tensor:
        return cudnn_convolution(*arguments, torch.backends.cudnn.benchmark, True, allow_tf32, out=into)

    return run


class Scratch:
    """What stands apart from its buffer for a moment; as large as the largest node needs."""

    def __init__(self) -> None:
        self.bytes = 0
        self.buffer: Tensor | None = None

    @classmethod
    def of(cls, plan: Plan, leaf: Leaf) -> Scratch:
        scratch = plan.scratch.setdefault("dense", cls())
        scratch.bytes = max(scratch.bytes, leaf.shape.numel() * leaf.dtype.itemsize)
        return scratch

    def like(self, value: Tensor) -> Tensor:
        """A tensor `[N, C, H, W]` whose pixels lie side by side."""
        if self.buffer is None or len(self.buffer) < self.bytes:
            self.buffer = torch.empty(self.bytes, dtype=torch.uint8, device=value.device)
        n, c, h, w = value.shape
        part = self.buffer[: value.numel() * value.dtype.itemsize]
        return part.view(value.dtype).view(n, h, w, c).permute(0, 3, 1, 2)


class DenseForm:
    """Runs one node of one plan densely."""

    def __init__(self, recipe: Recipe, leaf: Leaf, out: Tensor, plan: Plan):
        assert leaf.value is not None
        self.value, self.pixel, self.out = leaf.value, leaf.pixel, out
        self.steps, self.streams = recipe.steps.arguments, leaf.pixel[0]
        self.convolution: Callable[..., Tensor] | None = None
        self.scratch: Scratch | None = None
        self.operator, self.arguments = operators.finish.default, recipe.arguments[:1]
        if recipe.operator == "pool":
            self.operator, self.arguments = operators.pool_all.default, recipe.arguments
        elif recipe.dense is not None:
            self.convolution, self.arguments = recipe.dense, (out,)
            if not self.value.is_contiguous(memory_format=torch.channels_last):
                self.scratch = Scratch.of(plan, leaf)
        elif recipe.operator != "copy":
            raise NoKernel("it has no dense form")
        self.arguments = tuple(x.to(out.device) if isinstance(x, Tensor) else x for x in self.arguments)

    def prepare(self) -> None:
        """Before a capture: cuDNN settles how it computes this, and memory is taken."""
        if self.convolution is not None:
            into = self.value if self.scratch is None else self.scratch.like(self.value)
            if self.scratch is not None:
                self.arguments = (matrix(into, self.pixel),)
            self.convolution(torch.empty_like(into))

    def __call__(self) -> None:
        if self.convolution is not None:
            self.convolution(self.value if self.scratch is None else self.scratch.like(self.value))
            if self.scratch is None and not self.steps[1]:
                return
        self.operator(*self.arguments, *self.steps, self.streams, self.out)


def dense_form(recipe: Recipe, leaf: Leaf, out: Tensor, plan: Plan) -> DenseForm | None:
    """That of a node, or None: its sparse kernel is as fast with every pixel, or it is no part of a network's work."""
    try:
        return DenseForm(recipe, leaf, out, plan)
    except NoKernel:
        return None
