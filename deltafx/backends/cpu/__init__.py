"""The compiled CPU backend: when a plan is filled, every node gets a kernel with all that it works on.

A node is a recipe, which its operator's family writes: the compiled operator that runs it, its packed weights and the
tables of its window. What no recipe covers is run by the reference kernel, and the report says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from deltafx import _cpu
from deltafx.backends.cpu import convolution, fake, moving
from deltafx.backends.cpu.entering import InputKernel
from deltafx.backends.cpu.fallback import Fallback
from deltafx.backends.cpu.kernel import CompiledKernel
from deltafx.backends.families import VIEWS, check_delta_form, recipe_of
from deltafx.backends.matrix import NoKernel
from deltafx.backends.recipe import Flags, Product, Recipe
from deltafx.backends.reference import ReferenceKernel
from deltafx.errors import ConvertError
from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.ops import Concat

if TYPE_CHECKING:
    from deltafx.plan import Plan
    from deltafx.state import NodeState

__all__ = ["CpuBackend", "fake"]


@dataclass(frozen=True)
class CpuBackend:
    """Chooses the kernels."""

    name: ClassVar[str] = "cpu"
    pixel_major: ClassVar[bool] = True
    compiled: ClassVar[Any] = _cpu
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
            if plan.stale.device.type != "cpu":
                raise NoKernel(f"it is on {plan.stale.device}")
            if node.payload != "value":
                raise NoKernel("the difference payload has no compiled kernels")
            if isinstance(node, DenseToDelta):
                return InputKernel(node, state, plan, self.isa)
            return self.compile(node, state, inputs, plan)
        except NoKernel as reason:
            return Fallback(node, state, inputs, str(reason))

    def compile(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        """The compiled kernel of a node, or NoKernel."""
        check_delta_form(node, state)
        flags = Flags(state, plan)
        alone = len(node.stages) == 1
        if alone and isinstance(node.head, VIEWS):
            return moving.view(node, state, inputs, plan, flags)
        if alone and isinstance(node.head, Concat):
            return moving.concat(node, state, inputs, plan, flags, self.isa)
        return CompiledKernel(node, state, recipe_of(node, state, inputs, self), plan, flags, self)

    def product(self, product: Product) -> Recipe:
        return convolution.product(product, self.isa)
