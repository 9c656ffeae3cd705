"""Nodes whose output pixels are their input pixels, in their order: views, and concatenations of channels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deltafx.backends.matrix import NoKernel
from deltafx.backends.recipe import Flags
from deltafx.backends.window import Window, same_pixels
from deltafx.ops import Concat
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan

PROBES = 4


class MovingKernel(ABC):
    """Runs a node whose output pixels are its input pixels, in their order. A backend adds what is copied."""

    note = None
    exact = True

    def __init__(self, name: str, state: NodeState, sources: Sequence[Leaf], plan: Plan, flags: Flags):
        self.name = name
        self.flags = flags
        self.collectors = []
        for leaf in state.leaves:
            window = same_pixels(leaf.pixels // leaf.pixel[0])
            self.collectors.append(self.collector([(x, "same") for x in sources], window, leaf, plan))

    @abstractmethod
    def collector(self, sources: list[tuple[Leaf, str]], window: Window, out: Leaf, plan: Plan) -> Any:
        """What passes the masks of the sources on to an output."""


def viewed(node: DeltaNode, state: NodeState, inputs: Sequence[Any]) -> Leaf:
    """What a node is a view of, if its pixels stay where they are; or NoKernel."""
    if not all(leaf.aliased for leaf in state.leaves):
        raise NoKernel("it cannot be a view of its input here")
    x = inputs[0]
    if not isinstance(x, Leaf) or any(isinstance(other, Leaf) for other in pytree.tree_leaves(inputs[1:])):
        raise NoKernel("it is a view of several tensors")
    if not keeps_pixels(node, x, inputs, state):
        raise NoKernel("it moves pixels")
    return x


def keeps_pixels(node: DeltaNode, x: Leaf, inputs: Sequence[Any], state: NodeState) -> bool:
    """Whether every output has the input's pixels in their order: its mask rule is asked with random masks."""
    generator = torch.Generator().manual_seed(0)
    single = torch.eye(x.pixels, dtype=torch.uint8) if x.pixels <= 64 else torch.zeros(0, x.pixels, dtype=torch.uint8)
    random = torch.randint(2, (PROBES, x.pixels), dtype=torch.uint8, generator=generator)
    values = pytree.tree_map_only(Leaf, lambda leaf: leaf.value, list(inputs))
    results = pytree.tree_map_only(Leaf, lambda leaf: leaf.value, state.nest)
    for mask in torch.cat([single, random]):
        masks = [mask.view(x.pixel).to(x.device), *[None] * (len(inputs) - 1)]
        for moved in pytree.tree_leaves(node.candidates(masks, values, results)):
            if moved.numel() != x.pixels or not torch.equal(moved.reshape(-1).cpu(), mask):
                return False
    return True


def joined(node: DeltaNode, out: Leaf, inputs: Sequence[Any]) -> tuple[list[Leaf], list[tuple[Leaf, Tensor]]]:
    """The parts of a concatenation, and those that stand elsewhere, each with its place in the result; or NoKernel."""
    assert isinstance(node.head, Concat)
    assert out.value is not None
    dim, parts = node.head.dim(len(out.shape)), list(node.head.tensors(inputs))
    if type(node.head) is not Concat or out.pixel[dim] != 1 or out.shape[dim] == 1:
        raise NoKernel("it joins pixels, not channels")
    for part in parts:
        if isinstance(part, Leaf) and part.pixel != out.pixel:
            raise NoKernel("its parts have different pixels")
    apart = []
    first = 0
    for part in parts:
        place = out.value.narrow(dim, first, part.shape[dim])
        first += part.shape[dim]
        if isinstance(part, Tensor):
            place.copy_(part)  # a constant stands in its place from now on
        elif part.value.data_ptr() != place.data_ptr() or part.value.stride() != place.stride():
            if part.dtype != out.dtype:
                raise NoKernel("its parts have different dtypes")
            apart.append((part, place))
    return [part for part in parts if isinstance(part, Leaf)], apart
