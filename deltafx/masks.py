"""The update masks of a converted model's nodes, over the frame."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from deltafx.converted import Converted, check_converted
from deltafx.edges import module_of
from deltafx.errors import unknown_name
from deltafx.node import DenseToDelta
from deltafx.parts import DeltaParts
from deltafx.plan import Plan
from deltafx.state import Leaf


def calls_of(dm: Converted) -> list[tuple[str, Plan]]:
    """The plan of every call of a graph in the last frame, with what its nodes' names end with in the report."""
    if isinstance(dm, DeltaParts):
        calls = [(ran.graph, ran.number) for ran in dm.ran]
    else:
        calls = [(dm, 0)]
    found = []
    for graph, number in calls:
        plan = next((plan for plan in graph.runtime.plans if plan.call == number), None)
        if plan is not None:
            found.append((f"@{number + 1}" if number else "", plan))
    return found


def leaves_of(dm: Converted) -> dict[str, Leaf]:
    """The first output of every node whose masks have two spatial dimensions, by its path in the report."""
    found = {}
    for suffix, plan in calls_of(dm):
        for path, state in plan.nodes.items():
            if state.leaves and grid_of(state.leaves[0]) is not None:
                found[path + suffix] = state.leaves[0]
    return found


def grid_of(leaf: Leaf) -> tuple[int, int] | None:
    """Which dimensions of a mask are rows and columns: of `[N, 1, H, W]`, `[N, H, W, 1]`; None for other shapes."""
    if len(leaf.pixel) != 4:
        return None
    channels = 1 if leaf.pixel[1] == 1 and (leaf.pixel[3] != 1 or leaf.shape[3] == 1) else 3
    if leaf.pixel[channels] != 1:
        return None
    rows, columns = (d for d in (1, 2, 3) if d != channels)
    return rows, columns


def mask_of(dm: Converted, node: str | None = None, stream: int = 0) -> np.ndarray:
    """Which pixels of a node were updated in the last frame, uint8 `[h, w]` on its own grid; a copy.

    Without `node`, those of the input. Raises ValueError before the first frame, for a node that has no such grid, and
    for a stream that does not exist.
    """
    check_converted(dm, "mask_of")
    leaves = leaves_of(dm)
    if not leaves:
        raise ValueError("there is no update mask yet: run a frame first.")
    if node is None:
        node = input_of(dm)
    if node not in leaves:
        raise ValueError(unknown_name("node with rows and columns", node, leaves))
    leaf = leaves[node]
    if not 0 <= stream < leaf.mask.shape[0]:
        raise ValueError(f"stream {stream} does not exist; there are {leaf.mask.shape[0]}, numbered from 0.")
    rows, columns = grid_of(leaf) or (2, 3)
    return leaf.mask[stream].movedim((rows - 1, columns - 1), (0, 1))[..., 0].cpu().numpy().copy()


def input_of(dm: Converted) -> str:
    """The path of the (first graph's) first input."""
    return next(state.path for _, plan in calls_of(dm) for state in plan.inputs)


def over_frame(mask: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """A copy of an input's mask in the frame's size: detectors resize a picture, and pad it to the right and below."""
    scale = min(m / f for m, f in zip(mask.shape, frame.shape, strict=False))
    rows, columns = (
        np.minimum(((np.arange(f) + 0.5) * scale).astype(int), m - 1)
        for m, f in zip(mask.shape, frame.shape, strict=False)
    )
    return mask[np.ix_(rows, columns)]


def node_over_frame(values: np.ndarray, grid: tuple[int, ...], frame: np.ndarray) -> np.ndarray:
    """A node's mask, or anything on its grid, in the frame's size; `grid` is that of the input."""
    rows, columns = ((np.arange(side) * own / side).astype(int) for side, own in zip(grid, values.shape, strict=True))
    return over_frame(values[np.ix_(rows, columns)], frame)


def first_frame_of(dm: Converted, stream: int = 0) -> np.ndarray:
    """The last frame as the input remembers it, uint8 RGB `[H, W, 3]`; one given normalised is stretched to 0..255."""
    for _, plan in calls_of(dm):
        for state in plan.inputs:
            leaf = state.leaves[0]
            if grid_of(leaf) != (2, 3):
                continue
            if leaf.raw is not None:
                picture = leaf.raw[stream].movedim(0, -1).cpu().numpy()
                return picture[..., ::-1] if swaps(dm, state.path) else picture
            if leaf.value is not None:
                return stretched(leaf.value[stream])
    raise ValueError("no frame is remembered: run one first, or give the frame to draw on.")


def swaps(dm: Converted, path: str) -> bool:
    graphs = [ran.graph for ran in dm.ran] if isinstance(dm, DeltaParts) else [dm]
    modules = (module_of(graph, node) for graph in graphs for node in graph.graph.nodes)
    entry = next(module for module in modules if isinstance(module, DenseToDelta) and module.path == path)
    return entry.preprocess is not None and entry.preprocess.swap_channels


def stretched(value: torch.Tensor) -> np.ndarray:
    picture = torch.nan_to_num(value.detach().float()).movedim(0, -1)[..., :3].cpu()
    low, high = picture.min(), picture.max()
    picture = (picture - low) / (high - low).clamp(min=1e-9)
    return (255 * picture).round().byte().expand(*picture.shape[:2], 3).numpy()


class HeatMaps:
    """How often each pixel of some nodes is updated: show it every frame with `add`, and read `rates`."""

    def __init__(self, nodes: Iterable[str]):
        self.nodes = list(nodes)
        self.frames = 0
        self.sums: dict[str, np.ndarray] = {}

    def add(self, dm: Converted) -> None:
        """Count the masks of the last frame, of its first stream."""
        self.frames += 1
        for node in self.nodes:
            mask = (mask_of(dm, node) != 0).astype(np.int64)
            self.sums[node] = self.sums.get(node, 0) + mask

    def rates(self) -> dict[str, np.ndarray]:
        """The share of the frames in which a pixel was updated, `[h, w]` on each node's grid."""
        return {node: counts / self.frames for node, counts in self.sums.items()}
