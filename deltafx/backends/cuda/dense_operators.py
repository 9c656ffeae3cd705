"""Dense forms that are kernels of our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deltafx.backends.cuda.candidates import axes_of
from deltafx.backends.cuda.dense_form import DenseForm
from deltafx.backends.recipe import Recipe
from deltafx.state import Leaf

operators = torch.ops.deltafx_cuda


class DenseOperator(DenseForm):
    """One kernel for every pixel, with the steps."""

    def __init__(self, operator: Any, arguments: tuple, recipe: Recipe, leaf: Leaf, out: Tensor):
        self.operator, self.arguments = operator, arguments
        self.ending = (*recipe.steps.arguments, leaf.pixel[0], out)

    def __call__(self) -> None:
        self.operator(*self.arguments, *self.ending)


class DenseDepthwise(DenseOperator):
    """It adds up the rows of its result for a reduction that reads this next: they need not be read again."""

    def __init__(self, recipe: Recipe, leaf: Leaf, out: Tensor):
        arguments = (*recipe.arguments, *axes_of(recipe.window))
        super().__init__(operators.depthwise_all.default, arguments, recipe, leaf, out)
        self.sums: Tensor | None = None

    def follow(self, forms: Mapping[int, DenseForm]) -> None:
        self.sums = None

    def __call__(self) -> None:
        self.operator(*self.arguments, self.sums, *self.ending)


class DenseReduction(DenseOperator):
    """All pixels of a stream to one, by way of its rows."""

    def __init__(self, recipe: Recipe, leaf: Leaf, out: Tensor):
        x, _, rows, self.is_maximum, scale, self.partial = recipe.arguments  # without the mask
        arguments = (x, rows, self.is_maximum, scale, self.partial)
        super().__init__(operators.reduce_all.default, arguments, recipe, leaf, out)
        self.source, _ = recipe.sources[0]
        self.counters = torch.zeros(leaf.pixel[0], dtype=torch.int32, device=out.device)
        self.arrived: Tensor | None = self.counters  # None: the rows are added up before

    def follow(self, forms: Mapping[int, DenseForm]) -> None:
        self.arrived = self.counters
        before = forms.get(id(self.source))
        if isinstance(before, DenseDepthwise) and before.sums is None and not self.is_maximum:
            before.sums, self.arrived = self.partial, None

    def __call__(self) -> None:
        self.operator(*self.arguments, self.arrived, *self.ending)
