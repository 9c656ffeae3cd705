"""The dense form of a node: every pixel is computed, by cuDNN or cuBLAS where it multiplies, into the same buffer.

It looks at no mask. What runs the node sparsely would write the same, but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx.backends.cuda.candidates import axes_of, reads_itself
from deltafx.backends.cuda.cudnn import Convolution
from deltafx.backends.cuda.dense_convolution import DenseConvolution
from deltafx.backends.cuda.dense_form import DenseForm
from deltafx.backends.matrix import NoKernel, matrix_of
from deltafx.backends.recipe import Product, Recipe
from deltafx.ops import Linear
from deltafx.state import Leaf

if TYPE_CHECKING:
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda

FEW_PIXELS = 16  # of all streams, for which a library takes as long as for a hundred


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
        x, _, rows, maximum, scale, partial = arguments  # without the mask
        arrived = torch.zeros(partial.shape[0] // rows, dtype=torch.int32, device=partial.device)
        return operators.reduce_all.default, (x, rows, maximum, scale, partial, arrived)
    raise NoKernel("it has no dense form")


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


class DenseOperator(DenseForm):
    """What our own kernel makes of every pixel, with the steps."""

    def __init__(self, operator: Any, arguments: tuple, recipe: Recipe, leaf: Leaf, out: Tensor):
        self.operator = operator
        self.arguments = (*arguments, *recipe.steps.arguments, leaf.pixel[0], out)

    def __call__(self) -> None:
        self.operator(*self.arguments)


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
    try:
        return DenseOperator(*whole_operator(recipe), recipe, leaf, out)
    except NoKernel:
        return None
