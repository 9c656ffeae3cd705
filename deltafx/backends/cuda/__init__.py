"""The compiled CUDA backend: when a plan is filled, every node gets a kernel with all that it works on.

It takes the same recipes as the CPU backend. Counts stay on the device, so that a frame waits for nothing; what no
recipe covers is run by the reference kernel, on the device too, and the report says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from deltafx import _cuda
from deltafx.backends.compiled import CompiledBackend
from deltafx.backends.cuda import fake, moving
from deltafx.backends.cuda.entering import InputKernel
from deltafx.backends.cuda.kernel import CompiledKernel
from deltafx.backends.cuda.lanes import Lanes
from deltafx.backends.cuda.product import PIECE_BYTES, PIXEL_BYTES, multiply
from deltafx.backends.recipe import Flags, Product, Recipe
from deltafx.backends.reference import ReferenceKernel
from deltafx.node import DeltaNode, DenseToDelta

if TYPE_CHECKING:
    from deltafx.plan import Plan
    from deltafx.state import NodeState

__all__ = ["CudaBackend", "fake"]


class Fallback(ReferenceKernel):
    """The reference kernel for one node of a plan, with the reason why it is that one."""

    def __init__(self, note: str):
        self.note = note


@dataclass(frozen=True)
class CudaBackend(CompiledBackend):
    """Chooses the kernels."""

    name: ClassVar[str] = "cuda"
    alignment: ClassVar[int | None] = PIECE_BYTES  # what is gathered at once
    frame_alignment: ClassVar[int | None] = PIXEL_BYTES
    compiled: ClassVar[Any] = _cuda

    def compile(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        Lanes.of(plan).enter(state, inputs)
        return super().compile(node, state, inputs, plan)

    def product(self, product: Product) -> Recipe:
        return multiply(product)

    def input_kernel(self, node: DenseToDelta, state: NodeState, plan: Plan) -> InputKernel:
        return InputKernel(node, state, plan)

    def view(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> Any:
        return moving.view(node, state, inputs, plan, flags)

    def concat(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> Any:
        return moving.concat(node, state, inputs, plan, flags)

    def kernel(self, node: DeltaNode, state: NodeState, recipe: Recipe, plan: Plan, flags: Flags) -> CompiledKernel:
        return CompiledKernel(node, state, recipe, plan, flags)

    def fallback(self, node: Any, state: NodeState, inputs: Sequence[Any], note: str) -> Fallback:
        return Fallback(note)
