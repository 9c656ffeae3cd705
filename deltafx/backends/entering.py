"""dense_to_delta: a frame of images is compared, gated and taken over where it lies, by one operator call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from deltafx.backends.matrix import DTYPES, NoKernel
from deltafx.handover import as_it_was
from deltafx.state import Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DenseToDelta
    from deltafx.plan import Plan


UNGATED = (False, 0.0, 1, 0, 1.0, 0, 0, 0.0, 0.0, 0.0, None, None)


class InputKernel:
    """Runs an input node whose frame is one tensor of images, `[N, C, H, W]`. A backend adds its operator's ending."""

    name = "dense_to_delta"
    note = None
    exact = True
    backend: ClassVar[str]
    operators: ClassVar[Any]

    def __init__(self, node: DenseToDelta, state: NodeState, plan: Plan):
        leaf, dtypes = state.nest, DTYPES[self.backend]
        if not isinstance(leaf, Leaf) or len(leaf.shape) != 4 or leaf.dtype not in dtypes:
            *first, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise NoKernel(f"its frame is not one tensor of images in {', '.join(first)} or {last}")
        if not plan.has_streams(leaf.shape) or leaf.pixel != (leaf.shape[0], 1, *leaf.shape[2:]):
            raise NoKernel("its frame has no streams")
        self.leaf = leaf
        self.levels = None if node.preprocess is None else node.levels.detach().float().contiguous()
        self.swaps = node.preprocess is not None and node.preprocess.swap_channels
        self.raw = None if leaf.raw is None else leaf.raw.permute(0, 2, 3, 1)  # [N, H, W, C], as it lies
        self.change: Tensor | None = None  # of each pixel: scratch of some gates
        self.ending: tuple[Any, ...] = ()
        self.operator = self.operators.dense_to_delta.default

    def run_input(self, node: DenseToDelta, state: NodeState, frame: Tensor, plan: Plan) -> Any:
        gate, leaf = node.gate, self.leaf
        gated: tuple[Any, ...] = UNGATED
        if gate is not None:
            level = plan.grey_level(node.path, gate, frame)
            how = (gate.window, gate.dilation, gate.weak, gate.reach, gate.neighbours, gate.noise, gate.drift)
            gated = (True, gate.threshold * level, *how, level, plan.learned(node), self.change)
        forced, known = plan.forced(leaf.mask), plan.known_changes(node, leaf, frame)
        mask = known if forced is None else forced
        strip = None if leaf.strip is None else leaf.strip.mask
        self.operator(as_it_was(frame), *gated, self.levels, self.swaps, mask, strip, state.rows, *self.ending)
        return state.deltas
