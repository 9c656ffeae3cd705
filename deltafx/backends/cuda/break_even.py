"""From which share of updated pixels on a part of a frame is sooner done densely.

It is a rule and no measurement in place, so that the same frames are run in the same way every time. The figures are
those of an H100, and of launches those of an H200 (`python -m benchmarks.gpu`); on slower devices all are larger, and
what counts is how they compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from deltafx.state import NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan

Call = tuple["DeltaNode", tuple]  # a node, and what it is called with

MACS_PER_SECOND = {torch.float16: 170e12, torch.bfloat16: 170e12, torch.float32: 85e12}  # of dense convolutions
BYTES_PER_SECOND = 2.2e12
DENSE_LAUNCH, SPARSE_LAUNCH = 5e-6, 15e-6  # seconds of a kernel, and of a sparse node, with little to do
SPARSE_SLOWER = 2.2  # a sparse kernel than a dense one, for each pixel
# How many times the share of its updated pixels a part has to compute: windows reach beyond them, and where nothing is
# withheld what they reach is updated in turn.
GROWTH, GROWTH_EXACT = 2.0, 3.0

PART_SECONDS = 0.6e-3  # dense, of a part: to choose takes 20 us
MOST_PARTS = 6


def work_seconds(state: NodeState) -> float:
    """Of a dense node whose kernels are settled, without what it takes to start them."""
    (leaf, *_) = state.leaves
    if leaf.aliased:
        return 0.0
    itemsize = leaf.dtype.itemsize
    read, written = sum(shape.numel() for shape in state.operands), sum(leaf.shape.numel() for leaf in state.leaves)
    passes = 1 if state.kernel.dense_launches == 1 else 3  # over the result, which a second kernel finishes in place
    moved = (read + passes * written) * itemsize
    return max(state.macs / MACS_PER_SECOND[leaf.dtype], moved / BYTES_PER_SECOND)


def dense_seconds(calls: Sequence[Call], plan: Plan) -> float:
    states = [plan.nodes[module.path] for module, _ in calls]
    return sum(max(state.kernel.dense_launches * DENSE_LAUNCH, work_seconds(state)) for state in states)


def updated_share(calls: Sequence[Call], plan: Plan) -> float:
    """Of the pixels that a part reads; more than 1 if it is never sooner done densely."""
    work = sum(work_seconds(plan.nodes[module.path]) for module, _ in calls)
    withholds = plan.forced_mask is not None or any(plan.withholds(module) for module, _ in calls)
    spare = dense_seconds(calls, plan) - SPARSE_LAUNCH * len(calls)
    share = spare / (SPARSE_SLOWER * (GROWTH if withholds else GROWTH_EXACT) * work) if work else 2.0
    return max(share, 0.0)


def split(calls: Sequence[Call], plan: Plan) -> list[Sequence[Call]]:
    """Parts that take about as long, and long enough that each may be chosen for."""
    total = dense_seconds(calls, plan)
    count = max(1, min(MOST_PARTS, round(total / PART_SECONDS)))
    parts: list[list[Call]] = [[]]
    done = 0.0
    for call in calls:
        if parts[-1] and done >= total * len(parts) / count:
            parts.append([])
        parts[-1].append(call)
        done += dense_seconds([call], plan)
    return list(parts)
