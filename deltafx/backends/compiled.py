"""What the compiled backends have in common: how a node finds its kernel, and what every kernel asks in a frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from deltafx.backends.families import VIEWS, check_delta_form, recipe_of
from deltafx.backends.matrix import NoKernel
from deltafx.backends.recipe import Flags, Product, Recipe
from deltafx.backends.reference import ReferenceKernel
from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.ops import Concat
from deltafx.state import Leaf, NodeState
from deltafx.truncation import Truncation

if TYPE_CHECKING:
    from deltafx.plan import Plan


class CompiledBackend(ABC):
    """Chooses the kernels of one kind of device. Each of the methods that a backend brings may raise NoKernel."""

    name: ClassVar[str]  # also the type of its device
    alignment: ClassVar[int | None] = 1
    frame_alignment: ClassVar[int | None] = None
    compiled: ClassVar[Any]  # the compiled module

    def bind(self, node: Any, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        if isinstance(node, DeltaToDense):
            return ReferenceKernel()
        try:
            if plan.stale.device.type != self.name:
                raise NoKernel(f"it is on {plan.stale.device}")
            if node.payload != "value":
                raise NoKernel("the difference payload has no compiled kernels")
            if isinstance(node, DenseToDelta):
                return self.input_kernel(node, state, plan)
            return self.compile(node, state, inputs, plan)
        except NoKernel as reason:
            return self.fallback(node, state, inputs, str(reason))

    def compile(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        """The compiled kernel of a node, or NoKernel."""
        check_delta_form(node, state)
        flags = Flags(state, plan)
        alone = len(node.stages) == 1
        if alone and isinstance(node.head, VIEWS):
            return self.view(node, state, inputs, plan, flags)
        if alone and isinstance(node.head, Concat):
            return self.concat(node, state, inputs, plan, flags)
        return self.kernel(node, state, recipe_of(node, state, inputs, self), plan, flags)

    @abstractmethod
    def product(self, product: Product) -> Recipe:
        """How its kernels multiply, and how they want the weights."""

    @abstractmethod
    def input_kernel(self, node: DenseToDelta, state: NodeState, plan: Plan) -> Any: ...

    @abstractmethod
    def view(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> Any: ...

    @abstractmethod
    def concat(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> Any: ...

    @abstractmethod
    def kernel(self, node: DeltaNode, state: NodeState, recipe: Recipe, plan: Plan, flags: Flags) -> Any: ...

    @abstractmethod
    def fallback(self, node: Any, state: NodeState, inputs: Sequence[Any], note: str) -> ReferenceKernel:
        """What runs a node without a kernel, for the reason `note`."""


def decision(
    truncation: Truncation | None, state: NodeState, leaf: Leaf, plan: Plan
) -> tuple[Tensor | None, float, bool]:
    """What decides in this frame which pixels are propagated: a prescribed mask, or the threshold (0: equality) and
    whether it is one of the maximum norm."""
    forced, threshold, max_norm = None, 0.0, False
    if truncation is not None:
        forced = plan.forced(leaf.mask)
        threshold = plan.threshold(state, leaf, truncation) or 0.0
        max_norm = truncation.norm == "max"
    leaf.threshold = threshold or None
    return forced, threshold, max_norm


def strips_of(leaf: Leaf) -> list[tuple[Leaf, str]]:
    """What a background refresh adds to a node's inputs."""
    return [] if leaf.strip is None else [(leaf.strip, "same")]
