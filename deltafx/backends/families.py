"""From a node to its recipe: which families of operators have compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deltafx.backends import convolution, pooling
from deltafx.backends.matrix import NoKernel
from deltafx.backends.pointwise import pointwise
from deltafx.backends.recipe import Recipe, Target
from deltafx.backends.steps import Steps
from deltafx.node import DeltaNode
from deltafx.ops import (
    Activation,
    AdaptivePool,
    Affine,
    AvgPool,
    Concat,
    Conv,
    ConvTranspose,
    GetItem,
    Interpolate,
    Linear,
    MaxPool,
    Pointwise,
    Reduction,
    Reshape,
    SamePadded,
    View,
)
from deltafx.state import NodeState

RECIPES: dict[type, Callable[..., Recipe]] = {
    Conv: convolution.conv, ConvTranspose: convolution.conv_transpose, Linear: convolution.linear,
    SamePadded: convolution.same_padded, MaxPool: pooling.max_pool, AvgPool: pooling.avg_pool,
    AdaptivePool: pooling.adaptive_pool, Reduction: pooling.reduction, Interpolate: pooling.interpolate,
    Activation: pointwise, Affine: pointwise, Pointwise: pointwise,
}  # fmt: skip
VIEWS = (View, Reshape, GetItem)
COMPILED = (*RECIPES, *VIEWS, Concat)


def check_delta_form(node: DeltaNode, state: NodeState) -> None:
    if state.reason is not None or node.island is not None or state.random:
        raise NoKernel("it is dense")


def recipe_of(node: DeltaNode, state: NodeState, inputs: Sequence[Any], target: Target) -> Recipe:
    """The recipe of a node, or NoKernel."""
    family = RECIPES.get(type(node.head))
    if family is None:
        raise NoKernel(f"{node.head.spelling} has no compiled kernel")
    if len(state.leaves) != 1 or state.nest is not state.leaves[0]:
        raise NoKernel("it has several outputs")
    (out,) = state.leaves
    steps = Steps(out, target.compiled)
    recipe = family(node.head, node.stages[0].pick(inputs, None), steps, target)
    for stage in list(node.stages)[1:]:
        steps.stage(stage, inputs)
    if any(leaf.dtype != out.dtype for leaf, _ in recipe.sources):
        raise NoKernel("it changes the dtype")
    return recipe
