"""The compiled CPU backend: when a plan is filled, every node gets a kernel with all that it works on.

A node is a recipe, which its operator's family writes: the compiled operator that runs it, its packed weights and the
tables of its window. What no recipe covers is run by the reference kernel, and the report says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from deltafx import _cpu
from deltafx.backends.compiled import CompiledBackend
from deltafx.backends.cpu import convolution, fake, moving
from deltafx.backends.cpu.entering import InputKernel
from deltafx.backends.cpu.fallback import Fallback
from deltafx.backends.cpu.kernel import CompiledKernel
from deltafx.backends.recipe import Flags, Product, Recipe
from deltafx.errors import ConvertError
from deltafx.node import DeltaNode, DenseToDelta

if TYPE_CHECKING:
    from deltafx.plan import Plan
    from deltafx.state import NodeState

__all__ = ["CpuBackend", "fake"]


@dataclass(frozen=True)
class CpuBackend(CompiledBackend):
    """Chooses the kernels."""

    name: ClassVar[str] = "cpu"
    compiled: ClassVar[Any] = _cpu
    isa: str  # one of `_cpu.instruction_sets`
    dense_switch: bool

    @classmethod
    def choose(cls, isa: str | None, dense_switch: bool) -> CpuBackend:
        known = _cpu.instruction_sets
        if isa is not None and isa not in known:
            raise ConvertError(f"option 'isa': this processor has no {isa}; it has {', '.join(known)}.")
        return cls(isa or known[0], dense_switch)

    def product(self, product: Product) -> Recipe:
        return convolution.product(product, self.isa, self.dense_switch)

    def input_kernel(self, node: DenseToDelta, state: NodeState, plan: Plan) -> InputKernel:
        return InputKernel(node, state, plan, self.isa)

    def view(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> Any:
        return moving.view(node, state, inputs, plan, flags)

    def concat(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> Any:
        return moving.concat(node, state, inputs, plan, flags, self.isa)

    def kernel(self, node: DeltaNode, state: NodeState, recipe: Recipe, plan: Plan, flags: Flags) -> CompiledKernel:
        return CompiledKernel(node, state, recipe, plan, flags, self)

    def fallback(self, node: Any, state: NodeState, inputs: Sequence[Any], note: str) -> Fallback:
        return Fallback(node, state, inputs, note)
