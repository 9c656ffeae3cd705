"""The dense form of a node: every pixel is computed, by cuDNN or cuBLAS where it multiplies, into the same buffer.

It looks at no mask. What runs the node sparsely would write the same, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx.backends.cuda.candidates import axes_of
from deltafx.backends.cuda.cudnn import NARROW, Convolution, Engine, FusedConvolution
from deltafx.backends.cuda.ending import PLAIN, Ending, ending_of
from deltafx.backends.matrix import NoKernel, matrix, matrix_of
from deltafx.backends.recipe import Product, Recipe
from deltafx.ops import Linear
from deltafx.state import Leaf

if TYPE_CHECKING:
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda

KERNELS = {"reduce": 2}  # of operators that are more than one, in both forms: partial results, and their total


def kernels_of(recipe: Recipe) -> int:
    return KERNELS.get(recipe.operator, 1)


def whole_operator(recipe: Recipe) -> tuple[Any, tuple]:
    """What computes every pixel of a node that is no product, and what it is called with before its steps."""
    name, arguments = recipe.operator, recipe.arguments
    if name == "copy":
        return operators.finish.default, arguments
    if name == "pool":
        return operators.pool_all.default, arguments
    if name == "depthwise":
        return operators.depthwise_all.default, (*arguments, *axes_of(recipe.window))
    if name == "reduce":
        x, _, *others = arguments  # without the mask
        return operators.reduce_all.default, (x, *others)
    raise NoKernel("it has no dense form")


@dataclass(frozen=True, eq=False)
class MatrixProduct:
    """A fully connected layer: `[pixels, in]` times `[in, out]`."""

    x: Tensor
    weight: Tensor

    def __call__(self, into: Tensor) -> None:
        torch.mm(self.x, self.weight, out=into)


def product(p: Product, filled_up: Tensor, allow_tf32: bool) -> Convolution | MatrixProduct | None:
    """What computes a product whole, without bias; None: the sparse kernel does, and refreshes every pixel."""
    if isinstance(p.whole, Linear):
        return MatrixProduct(matrix_of(p.x), p.whole.weight.detach().to(filled_up.device, p.x.dtype).t())
    return Convolution.of(p, filled_up, allow_tf32)


class Scratch:
    """What nodes of a lane need beside their buffers while they run; as much as the largest needs."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self.bytes = 0
        self.buffer: Tensor | None = None
        self.workspace: Tensor | None = None
        self.engines = engines  # of the whole plan

    @classmethod
    def of(cls, plan: Plan, leaf: Leaf) -> Scratch:
        engines = plan.scratch.setdefault("engines", {})
        return plan.scratch.setdefault(("dense", leaf.lane), cls(engines))

    def ask(self, channels: int, like: Tensor) -> None:
        """For a tensor of so many channels, else of the form of another, `[N, C, H, W]`."""
        self.bytes = max(self.bytes, like[:, :1].numel() * channels * like.dtype.itemsize)

    def take(self, channels: int, like: Tensor) -> Tensor:
        """What was asked for, whose pixels lie side by side, once all nodes have asked."""
        if self.buffer is None:
            self.buffer = torch.empty(self.bytes, dtype=torch.uint8, device=like.device)
        n, _, h, w = like.shape
        part = self.buffer[: n * h * w * channels * like.dtype.itemsize]
        return part.view(like.dtype).view(n, h, w, channels).permute(0, 3, 1, 2)

    def reserve(self, workspace: Tensor) -> None:
        """Before anything that uses it is captured."""
        if self.workspace is None or len(self.workspace) < len(workspace):
            self.workspace = workspace


class DenseForm:
    """Runs one node of one plan densely: a product, or an input that is copied or pooled, and then its steps."""

    def __init__(self, recipe: Recipe, leaf: Leaf, out: Tensor, plan: Plan):
        assert leaf.value is not None
        self.value, self.pixel, self.out = leaf.value, leaf.pixel, out
        self.steps, self.streams = recipe.steps.arguments, leaf.pixel[0]
        self.product: Callable[[Tensor], None] | None = recipe.dense
        self.endings: list[Ending] = []  # that cuDNN may have for it, the best first
        self.fused: FusedConvolution | None = None
        self.finishes = bool(self.steps[1])  # what the product wrote
        self.scratch = Scratch.of(plan, leaf)
        self.apart = False  # a product passes through scratch
        self.kernels = 1 if recipe.dense is not None else kernels_of(recipe)  # after the product, if there is one
        self.operator, arguments = operators.finish.default, (out,)
        if isinstance(recipe.dense, Convolution):
            if self.value.is_contiguous(memory_format=torch.channels_last):
                ending = ending_of(recipe.steps, leaf)
                self.endings = [] if ending is None else [ending]
                self.endings += [PLAIN] if recipe.dense.is_transposed else []
                if recipe.dense.is_stem:
                    self.scratch.ask(NARROW, like=recipe.dense.x)
            else:
                self.apart = True
                self.scratch.ask(self.value.shape[1], like=self.value)
        if recipe.dense is None:
            self.operator, arguments = whole_operator(recipe)
        self.arguments: tuple = arguments

    @property
    def target(self) -> Tensor:
        """Where a product is written to."""
        if isinstance(self.product, MatrixProduct):
            return self.out
        return self.scratch.take(self.value.shape[1], like=self.value) if self.apart else self.value

    def prepare(self) -> None:
        """Before a capture: libraries settle how they compute this, and memory is taken."""
        if self.product is None:
            return
        if self.apart:
            self.arguments = (matrix(self.target, self.pixel),)
        elif isinstance(self.product, Convolution) and self.product.is_stem:
            self.product = self.product.narrowed(self.scratch.take(NARROW, like=self.product.x))
        into, product = torch.empty_like(self.target), self.product
        if isinstance(product, Convolution):
            result = matrix(into, self.pixel)

            def unfused() -> None:
                product(into)
                self.operator(result, *self.steps, self.streams, result)

            for ending in self.endings:
                fused = product.fused(ending, self.value, self.scratch.engines)
                if fused is not None and fused.settle(into, unfused):
                    self.fused, self.finishes = fused, self.finishes and ending is PLAIN
                    self.scratch.reserve(fused.workspace(into.device))
                    fused(into, fused.workspace(into.device))
                    return
        product(into)

    @property
    def ends_apart(self) -> bool:
        """Whether a kernel after the product applies the steps."""
        return self.product is None or self.apart or self.finishes

    @property
    def launches(self) -> int:
        """How many kernels it is, once it is prepared."""
        copies = isinstance(self.product, Convolution) and self.product.wide is not None
        return copies + (self.product is not None) + self.ends_apart * self.kernels

    def __call__(self) -> None:
        if self.fused is not None:
            assert self.scratch.workspace is not None
            self.fused(self.value, self.scratch.workspace)
        elif self.product is not None:
            self.product(self.target)
        if self.ends_apart:
            self.operator(*self.arguments, *self.steps, self.streams, self.out)


def dense_form(recipe: Recipe, leaf: Leaf, out: Tensor, plan: Plan) -> DenseForm | None:
    """That of a node, or None: its sparse kernel is as fast with every pixel, or it is no part of a network's work."""
    try:
        return DenseForm(recipe, leaf, out, plan)
    except NoKernel:
        return None
