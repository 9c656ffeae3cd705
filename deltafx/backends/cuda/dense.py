"""The dense form of a node: every pixel is computed, by cuDNN or cuBLAS where it multiplies, into the same buffer.

It looks at no mask. What runs the node sparsely would write the same, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deltafx.backends.cuda.cudnn import Convolution, Engine, FusedConvolution
from deltafx.backends.cuda.ending import PLAIN, Ending, ending_of
from deltafx.backends.matrix import NoKernel, matrix, matrix_of
from deltafx.backends.recipe import Product, Recipe
from deltafx.ops import Linear
from deltafx.state import Leaf

if TYPE_CHECKING:
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda


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

    def like(self, value: Tensor) -> Tensor:
        """A tensor `[N, C, H, W]` whose pixels lie side by side, once all nodes are known."""
        if self.buffer is None:
            self.buffer = torch.empty(self.bytes, dtype=torch.uint8, device=value.device)
        n, c, h, w = value.shape
        part = self.buffer[: value.numel() * value.dtype.itemsize]
        return part.view(value.dtype).view(n, h, w, c).permute(0, 3, 1, 2)

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
        arguments = recipe.arguments if recipe.operator == "pool" else recipe.arguments[:1]
        self.operator = operators.pool_all.default if recipe.operator == "pool" else operators.finish.default
        if isinstance(recipe.dense, Convolution):
            if self.value.is_contiguous(memory_format=torch.channels_last):
                ending = ending_of(recipe.steps, leaf)
                self.endings = [] if ending is None else [ending]
                self.endings += [PLAIN] if recipe.dense.is_transposed else []
            else:
                self.apart = True
                self.scratch.bytes = max(self.scratch.bytes, leaf.shape.numel() * leaf.dtype.itemsize)
        if recipe.dense is not None:
            arguments = (out,)
        elif recipe.operator not in ("pool", "copy"):
            raise NoKernel("it has no dense form")
        self.arguments = tuple(x.to(out.device) if isinstance(x, Tensor) else x for x in arguments)

    @property
    def target(self) -> Tensor:
        """Where a product is written to."""
        if isinstance(self.product, MatrixProduct):
            return self.out
        return self.scratch.like(self.value) if self.apart else self.value

    def prepare(self) -> None:
        """Before a capture: libraries settle how they compute this, and memory is taken."""
        if self.product is None:
            return
        if self.apart:
            self.arguments = (matrix(self.target, self.pixel),)
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

    def __call__(self) -> None:
        if self.fused is not None:
            assert self.scratch.workspace is not None
            self.fused(self.value, self.scratch.workspace)
        elif self.product is not None:
            self.product(self.target)
        if self.product is None or self.apart or self.finishes:
            self.operator(*self.arguments, *self.steps, self.streams, self.out)


def dense_form(recipe: Recipe, leaf: Leaf, out: Tensor, plan: Plan) -> DenseForm | None:
    """That of a node, or None: its sparse kernel is as fast with every pixel, or it is no part of a network's work."""
    try:
        return DenseForm(recipe, leaf, out, plan)
    except NoKernel:
        return None
