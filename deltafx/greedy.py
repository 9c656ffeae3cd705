"""DeltaCNN's search for thresholds (Parger et al., CVPR 2022): front to back, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from deltafx.calibration import Measured
from deltafx.node import DeltaNode
from deltafx.starts import is_nonlinear
from deltafx.trials import MOST, Thresholds, Trials

GROWTH = 2.0  # of a threshold
LEAST, FIRST = 0.02, 0.16  # a threshold that is tried, and the one that is tried first of all
FRAMES = 12  # for each that is tried: in its beginning nearly all is computed
SPENT = 0.9  # of the budget, on the frames that are searched on: others differ


def greedy(
    trials: Trials, points: Mapping[str, DeltaNode], max_error: float | None, tell: Callable[[str], None]
) -> tuple[Thresholds, Measured]:
    """Each threshold grows while the error stays within its share of the budget; those of activations alone.

    The largest of a row of thresholds that does is looked for from where it was found for the node before, so that a
    node takes two or three runs; errors are taken to grow with a threshold.
    """
    assert max_error is not None
    searched = [path for path, node in points.items() if is_nonlinear(node)]
    thresholds = dict.fromkeys(points, 0.0)
    value = FIRST
    for number, path in enumerate(searched, start=1):
        allowed = SPENT * max_error * number / len(searched)

        def within(value: float, path: str = path, allowed: float = allowed) -> bool:
            found = trials.measure({**thresholds, path: value}, count=FRAMES)
            tell(f"{path}: {found.macs_ratio:.1f}x fewer MACs, error {found.error:.3g}")
            return found.error <= allowed

        if within(value):
            while value * GROWTH <= MOST and within(value * GROWTH):
                value *= GROWTH
        else:
            value /= GROWTH
            while value >= LEAST and not within(value):
                value /= GROWTH
        thresholds[path] = value if value >= LEAST else 0.0
        value = max(value, LEAST)
    return thresholds, trials.measure(thresholds)
