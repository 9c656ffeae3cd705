"""The compiled CPU backend: when a plan is filled, every node gets a kernel with all that it works on.

A node is a recipe, which its operator's family writes: the compiled operator that runs it, its packed weights and the
tables of its window. What no recipe covers is run by the reference kernel, and the report says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from deltafx import _cpu
from deltafx.backends.cpu import convolution, fake, moving, pooling
from deltafx.backends.cpu.entering import InputKernel
from deltafx.backends.cpu.fallback import Fallback
from deltafx.backends.cpu.kernel import CompiledKernel, Flags, Recipe
from deltafx.backends.cpu.matrix import NoKernel
from deltafx.backends.cpu.pointwise import pointwise
from deltafx.backends.cpu.steps import Steps
from deltafx.backends.reference import ReferenceKernel
from deltafx.errors import ConvertError
from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
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

if TYPE_CHECKING:
    from deltafx.plan import Plan
    from deltafx.state import NodeState

__all__ = ["CpuBackend", "fake"]

RECIPES: dict[type, Callable[..., Recipe]] = {
    Conv: convolution.conv, ConvTranspose: convolution.conv_transpose, Linear: convolution.linear,
    SamePadded: convolution.same_padded, MaxPool: pooling.max_pool, AvgPool: pooling.avg_pool,
    AdaptivePool: pooling.adaptive_pool, Reduction: pooling.reduction, Interpolate: pooling.interpolate,
    Activation: pointwise, Affine: pointwise, Pointwise: pointwise,
}  # fmt: skip
VIEWS = (View, Reshape, GetItem)
COMPILED = (*RECIPES, *VIEWS, Concat)


@dataclass(frozen=True)
class CpuBackend:
    """Chooses the kernels."""

    name: ClassVar[str] = "cpu"
    pixel_major: ClassVar[bool] = True
    isa: str  # one of `_cpu.instruction_sets`
    dense_switch: bool

    @classmethod
    def choose(cls, isa: str | None, dense_switch: bool) -> CpuBackend:
        known = _cpu.instruction_sets
        if isa is not None and isa not in known:
            raise ConvertError(f"option 'isa': this processor has no {isa}; it has {', '.join(known)}.")
        return cls(isa or known[0], dense_switch)

    def bind(self, node: Any, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        if isinstance(node, DeltaToDense):
            return ReferenceKernel()
        try:
            if node.payload != "value":
                raise NoKernel("the difference payload has no compiled kernels")
            if isinstance(node, DenseToDelta):
                return InputKernel(node, state, plan, self.isa)
            return self.compile(node, state, inputs, plan)
        except NoKernel as reason:
            return Fallback(node, state, inputs, str(reason))

    def compile(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        """The compiled kernel of a node, or NoKernel."""
        if state.reason is not None or node.island is not None or state.random:
            raise NoKernel("it is dense")
        flags = Flags(state, plan)
        alone = len(node.stages) == 1
        if alone and isinstance(node.head, VIEWS):
            return moving.view(node, state, inputs, plan, flags)
        if alone and isinstance(node.head, Concat):
            return moving.concat(node, state, inputs, plan, flags, self.isa)
        family = RECIPES.get(type(node.head))
        if family is None:
            raise NoKernel(f"{node.head.spelling} has no compiled kernel")
        if len(state.leaves) != 1 or state.nest is not state.leaves[0]:
            raise NoKernel("it has several outputs")
        (out,) = state.leaves
        steps = Steps(out)
        recipe = family(node.head, node.stages[0].pick(inputs, None), steps, self.isa)
        for stage in list(node.stages)[1:]:
            steps.stage(stage, inputs)
        if any(leaf.dtype != out.dtype for leaf, _ in recipe.sources):
            raise NoKernel("it changes the dtype")
        return CompiledKernel(node, state, recipe, plan, flags, self)
