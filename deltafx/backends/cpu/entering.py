"""dense_to_delta on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deltafx.backends import entering
from deltafx.backends.cpu.kernel import operators
from deltafx.backends.matrix import matrix_of
from deltafx.state import NodeState

if TYPE_CHECKING:
    from deltafx.node import DenseToDelta
    from deltafx.plan import Plan


class InputKernel(entering.InputKernel):
    backend = "cpu"
    operators = operators

    def __init__(self, node: DenseToDelta, state: NodeState, plan: Plan, isa: str):
        super().__init__(node, state, plan)
        if node.gate is not None and node.gate.adapts:
            self.change = torch.empty(self.leaf.pixels)
        self.ending = (isa, self.raw, matrix_of(self.leaf), self.leaf.mask, self.leaf.tally)
