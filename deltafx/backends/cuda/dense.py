"""The dense form of a node: every pixel is computed, by cuDNN or cuBLAS where it multiplies, into the same buffer.

It looks at no mask. What runs the node sparsely would write the same, but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deltafx.backends.cuda.candidates import reads_itself
from deltafx.backends.cuda.cudnn import Convolution
from deltafx.backends.cuda.dense_convolution import DenseConvolution
from deltafx.backends.cuda.dense_form import DenseForm
from deltafx.backends.cuda.dense_operators import DenseDepthwise, DenseOperator, DenseReduction
from deltafx.backends.matrix import matrix_of
from deltafx.backends.recipe import Product, Recipe
from deltafx.ops import Linear
from deltafx.state import Leaf

if TYPE_CHECKING:
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda

FEW_PIXELS = 16  # of all streams, for which a library takes as long as for a hundred


@dataclass(frozen=True, eq=False)
class MatrixProduct:
    """A fully connected layer: `[pixels, in]` times `[in, out]`."""

    x: Tensor
    weight: Tensor

    def __call__(self, into: Tensor) -> None:
        torch.mm(self.x, self.weight, out=into)


@dataclass(frozen=True, eq=False)
class SmallProduct:
    """Of few pixels `[pixels, in]` and weights `[out, in]`. It can be ended, too."""

    x: Tensor
    weight: Tensor

    @classmethod
    def of(cls, p: Product, filled_up: Tensor) -> SmallProduct:
        """`filled_up` is the input's matrix, with what its buffer is filled up with."""
        weight = p.weight[0, 0].t()
        weight = torch.nn.functional.pad(weight, (0, filled_up.shape[1] - weight.shape[1]))
        return cls(filled_up, weight.to(filled_up.device, filled_up.dtype).contiguous())


def product(p: Product, filled_up: Tensor, allow_tf32: bool) -> Convolution | MatrixProduct | SmallProduct | None:
    """What computes a product whole, without bias; None: the sparse kernel does, and refreshes every pixel."""
    if p.weight.shape[0] == 1 and reads_itself(p.window) and filled_up.shape[0] <= FEW_PIXELS:
        return SmallProduct.of(p, filled_up)
    if isinstance(p.whole, Linear):
        return MatrixProduct(matrix_of(p.x), p.whole.weight.detach().to(filled_up.device, p.x.dtype).t())
    return Convolution.of(p, filled_up, allow_tf32)


class DenseMatrixProduct(DenseForm):
    """What cuBLAS computes, and the steps on it."""

    def __init__(self, product: MatrixProduct, recipe: Recipe, leaf: Leaf, out: Tensor):
        self.product, self.out = product, out
        self.arguments = (out, *recipe.steps.arguments, leaf.pixel[0], out)
        self.finishes = bool(recipe.steps.codes)

    @property
    def launches(self) -> int:
        return 1 + self.finishes

    def prepare(self) -> None:
        self.product(torch.empty_like(self.out))

    def __call__(self) -> None:
        self.product(self.out)
        if self.finishes:
            operators.finish.default(*self.arguments)


def dense_form(recipe: Recipe, leaf: Leaf, out: Tensor, plan: Plan) -> DenseForm | None:
    """That of a node, or None: its sparse kernel is as fast with every pixel, or it is no part of a network's work."""
    if isinstance(recipe.dense, Convolution):
        return DenseConvolution(recipe.dense, recipe.steps, leaf, out, plan)
    if isinstance(recipe.dense, MatrixProduct):
        return DenseMatrixProduct(recipe.dense, recipe, leaf, out)
    if isinstance(recipe.dense, SmallProduct):
        small = recipe.dense.x, recipe.dense.weight
        return DenseOperator(operators.product_all.default, small, recipe, leaf, out)
    if recipe.operator == "depthwise":
        return DenseDepthwise(recipe, leaf, out)
    if recipe.operator == "reduce":
        return DenseReduction(recipe, leaf, out)
    if recipe.operator in ("copy", "pool"):
        whole = operators.finish.default if recipe.operator == "copy" else operators.pool_all.default
        return DenseOperator(whole, recipe.arguments, recipe, leaf, out)
    return None
