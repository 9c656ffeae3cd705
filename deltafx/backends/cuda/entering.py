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


WORD = 32  # pixels, of which each has a bit
MEANS_AT_ONCE = 4  # of pixels' changes: margins, which stay 0, are whole pieces


class InputKernel(entering.InputKernel):
    backend = "cuda"
    operators = operators

    def __init__(self, node: DenseToDelta, state: NodeState, plan: Plan):
        super().__init__(node, state, plan)
        gate, leaf = node.gate, self.leaf
        mean = passed = strength = strong = counts = None
        streams, _, rows, columns = leaf.shape
        words = -(-columns // WORD)
        if gate is not None and (gate.window > 1 or gate.adapts):
            self.change = torch.empty(streams, rows, WORD * words, device=leaf.device)
        if gate is not None and gate.window > 1:
            margin = -(-(gate.window // 2) // MEANS_AT_ONCE) * MEANS_AT_ONCE
            mean = torch.zeros(streams, rows, WORD * words + 2 * margin, device=leaf.device)
        if gate is not None and (gate.window > 1 or gate.dilation > 0 or gate.adapts or gate.asks_neighbours):
            passed = torch.empty(streams, rows, words, dtype=torch.int32, device=leaf.device)
        if gate is not None and gate.asks_neighbours:
            strength = torch.empty(leaf.pixels, dtype=torch.uint8, device=leaf.device)
            strong = torch.empty(streams, rows, words, dtype=torch.int32, device=leaf.device)
        if gate is not None and gate.adapts:
            counts = torch.zeros(streams, BINS + 1, dtype=torch.int32, device=leaf.device)  # and who added to them
        self.ending = (self.raw, mean, passed, strength, strong, counts, matrix_of(leaf), leaf.mask, leaf.tally)
