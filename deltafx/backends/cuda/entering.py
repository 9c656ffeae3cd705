"""dense_to_delta: a frame of images is compared, gated and taken over where it lies, by one operator call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx.backends.cuda.kernel import operators
from deltafx.backends.matrix import DTYPES, NoKernel, matrix_of
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DenseToDelta
    from deltafx.plan import Plan


class InputKernel:
    """Runs an input node whose frame is one tensor of images, `[N, C, H, W]`."""

    name = "dense_to_delta"
    note = None
    exact = True

    def __init__(self, node: DenseToDelta, state: NodeState, plan: Plan):
        leaf = state.nest
        if not isinstance(leaf, Leaf) or len(leaf.shape) != 4 or leaf.dtype not in DTYPES["cuda"]:
            raise NoKernel("its frame is not one tensor of images in float32, float16 or bfloat16")
        if not plan.has_streams(leaf.shape) or leaf.pixel != (leaf.shape[0], 1, *leaf.shape[2:]):
            raise NoKernel("its frame has no streams")
        self.leaf = leaf
        self.levels = None if node.preprocess is None else node.levels.detach().float().contiguous()
        self.swaps = node.preprocess is not None and node.preprocess.swap_channels
        raw = None if leaf.raw is None else leaf.raw.permute(0, 2, 3, 1)  # [N, H, W, C], as it lies
        gate, device = node.gate, leaf.device
        mean = passed = None
        if gate is not None and gate.window > 1:
            mean = torch.empty(leaf.pixels, device=device)
        if gate is not None and (gate.window > 1 or gate.dilation > 0):
            passed = torch.empty(2 * leaf.pixels, dtype=torch.uint8, device=device)
        self.ending = (raw, mean, passed, matrix_of(leaf), leaf.mask, leaf.tally)

    def run_input(self, node: DenseToDelta, state: NodeState, frame: Tensor, plan: Plan) -> Any:
        gate, leaf = node.gate, self.leaf
        gated: tuple[bool, float, int, int] = (False, 0.0, 1, 0)
        if gate is not None:
            threshold = gate.threshold * plan.grey_level(node.path, gate, frame)
            gated = (True, threshold, gate.window, gate.dilation)
        forced, known = plan.forced(leaf.mask), plan.known_changes(node, leaf, frame)
        mask = known if forced is None else forced
        operators.dense_to_delta.default(frame, *gated, self.levels, self.swaps, mask, state.rows, *self.ending)
        return state.deltas
