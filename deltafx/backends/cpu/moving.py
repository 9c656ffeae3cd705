"""Nodes that compute nothing: views, and concatenations. They pass masks on, and copy what stands elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deltafx.backends.cpu.convolution import matrix_of
from deltafx.backends.cpu.kernel import Collector, Flags, Scratch, operators
from deltafx.backends.cpu.matrix import NoKernel, matrix
from deltafx.backends.cpu.window import same_pixels
from deltafx.ops import Concat
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan

PROBES = 4


class MovingKernel:
    """Runs a node whose output pixels are its input pixels, in their order."""

    note = None
    exact = True

    def __init__(self, name: str, state: NodeState, sources: Sequence[Leaf], plan: Plan, flags: Flags):
        self.name = name
        self.flags = flags
        self.collectors = []
        for leaf in state.leaves:
            scratch = Scratch.of(plan, leaf.pixels)
            window = same_pixels(leaf.pixels // leaf.pixel[0])
            self.collectors.append(Collector([(x, "same") for x in sources], window, leaf, scratch, moves=True))
        self.pixels = scratch.pixels
        self.copies: list[tuple[Tensor, tuple]] = []

    def run(self, node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan) -> Any:
        refresh = self.flags.of(state)
        for collect in self.collectors:
            count = collect(refresh)
            if count:
                for source, target in self.copies:
                    operators.copy.default(source, self.pixels, count, [], [], [], None, refresh, 0.0, False, *target)
        return state.deltas


def view(node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags) -> MovingKernel:
    if not all(leaf.aliased for leaf in state.leaves):
        raise NoKernel("it cannot be a view of its input here")
    x = inputs[0]
    if not isinstance(x, Leaf) or any(isinstance(other, Leaf) for other in pytree.tree_leaves(inputs[1:])):
        raise NoKernel("it is a view of several tensors")
    if not keeps_pixels(node, x, inputs, state):
        raise NoKernel("it moves pixels")
    return MovingKernel("view", state, [x], plan, flags)


def keeps_pixels(node: DeltaNode, x: Leaf, inputs: Sequence[Any], state: NodeState) -> bool:
    """Whether every output has the input's pixels in their order: its mask rule is asked with random masks."""
    generator = torch.Generator().manual_seed(0)
    single = torch.eye(x.pixels, dtype=torch.uint8) if x.pixels <= 64 else torch.zeros(0, x.pixels, dtype=torch.uint8)
    random = torch.randint(2, (PROBES, x.pixels), dtype=torch.uint8, generator=generator)
    values = pytree.tree_map_only(Leaf, lambda leaf: leaf.value, list(inputs))
    results = pytree.tree_map_only(Leaf, lambda leaf: leaf.value, state.nest)
    for mask in torch.cat([single, random]):
        masks = [mask.view(x.pixel), *[None] * (len(inputs) - 1)]
        for moved in pytree.tree_leaves(node.candidates(masks, values, results)):
            if moved.numel() != x.pixels or not torch.equal(moved.reshape(-1), mask):
                return False
    return True


def concat(
    node: DeltaNode, state: NodeState, inputs: Sequence[Any], plan: Plan, flags: Flags, isa: str
) -> MovingKernel:
    (out,) = state.leaves
    assert isinstance(node.head, Concat)
    assert out.value is not None
    dim, parts = node.head.dim(len(out.shape)), list(node.head.tensors(inputs))
    if type(node.head) is not Concat or out.pixel[dim] != 1 or out.shape[dim] == 1:
        raise NoKernel("it joins pixels, not channels")
    for part in parts:
        if isinstance(part, Leaf) and part.pixel != out.pixel:
            raise NoKernel("its parts have different pixels")
    kernel = MovingKernel("concat", state, [part for part in parts if isinstance(part, Leaf)], plan, flags)
    first = 0
    for part in parts:
        place = out.value.narrow(dim, first, part.shape[dim])
        first += part.shape[dim]
        if isinstance(part, Tensor):
            place.copy_(part)  # a constant stands in its place from now on
        elif part.value.data_ptr() != place.data_ptr() or part.value.stride() != place.stride():
            if part.dtype != out.dtype:
                raise NoKernel("its parts have different dtypes")
            unused = torch.zeros(out.pixels, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64)
            kernel.copies.append((matrix_of(part), (isa, matrix(place, out.pixel), *unused)))
    return kernel
