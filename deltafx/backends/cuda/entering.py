"""dense_to_delta on a GPU, with scratch for the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deltafx.backends import entering
from deltafx.backends.cuda.kernel import operators
from deltafx.backends.matrix import matrix_of
from deltafx.gate import BINS
from deltafx.state import NodeState

if TYPE_CHECKING:
    from deltafx.node import DenseToDelta
    from deltafx.plan import Plan


class InputKernel(entering.InputKernel):
    backend = "cuda"
    operators = operators

    def __init__(self, node: DenseToDelta, state: NodeState, plan: Plan):
        super().__init__(node, state, plan)
        gate, leaf = node.gate, self.leaf
        mean = passed = counts = None
        if gate is not None and gate.window > 1:
            mean = torch.empty(leaf.pixels, device=leaf.device)
        if gate is not None and (gate.window > 1 or gate.dilation > 0 or gate.adapts or gate.asks_neighbours):
            passed = torch.empty(2 * leaf.pixels, dtype=torch.uint8, device=leaf.device)
        if gate is not None and gate.adapts:
            counts = torch.zeros(plan.streams, BINS, dtype=torch.int32, device=leaf.device)
        self.ending = (self.raw, mean, passed, counts, matrix_of(leaf), leaf.mask, leaf.tally)
