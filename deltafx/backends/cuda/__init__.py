"""The compiled CUDA backend: when a plan is filled, every node gets a kernel with all that it works on.

It takes the same recipes as the CPU backend. Counts stay on the device, so that a frame waits for nothing; what no
recipe covers is run by the reference kernel, on the device too, and the report says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from deltafx import _cuda
from deltafx.backends.cuda import fake, moving
from deltafx.backends.cuda.entering import InputKernel
from deltafx.backends.cuda.kernel import CompiledKernel
from deltafx.backends.cuda.product import multiply
from deltafx.backends.families import VIEWS, check_delta_form, recipe_of
from deltafx.backends.matrix import NoKernel
from deltafx.backends.recipe import Flags, Product, Recipe
from deltafx.backends.reference import ReferenceKernel
from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.ops import Concat

if TYPE_CHECKING:
    from deltafx.plan import Plan
    from deltafx.state import NodeState

__all__ = ["CudaBackend", "fake"]


class Fallback(ReferenceKernel):
    """The reference kernel for one node of a plan, with the reason why it is that one."""

    def __init__(self, note: str):
        self.note = note


@dataclass(frozen=True)
class CudaBackend:
    """Chooses the kernels."""

    name: ClassVar[str] = "cuda"
    pixel_major: ClassVar[bool] = True
    compiled: ClassVar[Any] = _cuda

    def bind(self, node: Any, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        if isinstance(node, DeltaToDense):
            return ReferenceKernel()
        try:
            if plan.stale.device.type != "cuda":
                raise NoKernel(f"it is on {plan.stale.device}")
            if node.payload != "value":
                raise NoKernel("the difference payload has no compiled kernels")
            if isinstance(node, DenseToDelta):
                return InputKernel(node, state, plan)
            return self.compile(node, state, inputs, plan)
        except NoKernel as reason:
            return Fallback(str(reason))

    def compile(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        """The compiled kernel of a node, or NoKernel."""
        check_delta_form(node, state)
        flags = Flags(state, plan)
        alone = len(node.stages) == 1
        if alone and isinstance(node.head, VIEWS):
            return moving.view(node, state, inputs, plan, flags)
        if alone and isinstance(node.head, Concat):
            return moving.concat(node, state, inputs, plan, flags)
        return CompiledKernel(node, state, recipe_of(node, state, inputs, self), plan, flags)

    def product(self, product: Product) -> Recipe:
        return multiply(product)
