"""What a family of operators says of a node, in words that all compiled backends understand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from deltafx.backends.matrix import NoKernel
from deltafx.backends.steps import Steps
from deltafx.backends.window import Window
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.plan import Plan


@dataclass(eq=False)
class Recipe:
    """Which operator runs a node, on what, and what its pixels depend on."""

    operator: str  # of the backend's compiled ones
    arguments: tuple[Any, ...]  # before `pixels`
    sources: list[tuple[Leaf, str]]  # the inputs, each with its relation to the output's pixels
    window: Window
    steps: Steps
    dense: Any = None  # computes the first stage whole, as a backend says
    dense_share: float = 1.0  # where more pixels than this share are computed, dense is faster


@dataclass(frozen=True, eq=False)
class Product:
    """Weighted taps added up: a convolution of any kind, or a fully connected layer."""

    kind: str  # "convolution", "transposed" or "linear"
    x: Leaf
    weight: Tensor  # float32 [groups, taps, channels in, channels out], of a group
    bias: Tensor | None  # float32
    window: Window
    steps: Steps
    whole: Callable[[Any], Tensor]  # computes it densely

    @property
    def source(self) -> tuple[Leaf, str]:
        return self.x, "same" if self.kind == "linear" else "window"


class Target(Protocol):
    """The compiled kernels that a recipe is for."""

    compiled: ClassVar[Any]  # the compiled module

    def product(self, product: Product) -> Recipe:
        """How its kernels multiply, and how they want the weights."""


class Flags:
    """A node's refresh flags as the kernels take them: one for each entry of the first dimension of its mask.

    Those are the streams; or, in a node that is not aligned, anything, and then all are refreshed if one stream is.
    """

    def __init__(self, state: NodeState, plan: Plan):
        sizes = {leaf.pixel[:1] for leaf in state.leaves}
        if len(sizes) != 1 or sizes == {()} or (state.aligned and sizes != {(plan.streams,)}):
            raise NoKernel("its masks do not tell streams apart")
        device = plan.stale.device
        self.own = None if state.aligned else torch.zeros(sizes.pop(), dtype=torch.bool, device=device)

    def count(self, plan: Plan) -> int:
        return plan.streams if self.own is None else self.own.numel()

    def all(self, plan: Plan) -> Tensor:
        """As in a frame that refreshes everything."""
        key = ("every stream", self.count(plan))
        if key not in plan.scratch:
            plan.scratch[key] = torch.ones(self.count(plan), dtype=torch.bool, device=plan.stale.device)
        return plan.scratch[key]

    def of(self, state: NodeState) -> Tensor:
        """In the frame that is running."""
        return state.rows if self.own is None else self.own.copy_(state.rows.expand_as(self.own))
