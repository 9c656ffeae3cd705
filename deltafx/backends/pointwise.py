"""Pointwise nodes: one operand fills the tile, the rest are steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltafx.backends.matrix import NoKernel, matrix_of
from deltafx.backends.recipe import Recipe, Target
from deltafx.backends.steps import CHAIN, Steps
from deltafx.backends.window import same_pixels
from deltafx.ops import Op
from deltafx.state import Leaf


def pointwise(op: Op, inputs: Sequence[Any], steps: Steps, target: Target) -> Recipe:
    index = filling(inputs, steps.out)
    steps.op(op, [CHAIN if x is inputs[index] else x for x in inputs])
    window = same_pixels(steps.out.pixels // steps.out.pixel[0])
    return Recipe("copy", (matrix_of(inputs[index]),), [(inputs[index], "same")], window, steps)


def filling(inputs: Sequence[Any], out: Leaf) -> int:
    """The input that fills the tile: one that has the result's pixels and channels."""
    for index, x in enumerate(inputs):
        if isinstance(x, Leaf) and x.shape == out.shape and x.pixel == out.pixel:
            return index
    raise NoKernel("none of its operands has the shape of its result")
