"""`deltafx.calibrate`: thresholds and gate that save most within an error, found on frames of the camera."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deltafx.calibration import Calibration, Measured, fingerprint_of
from deltafx.converted import Converted, check_converted, forget_counts, graphs_of, settings_of
from deltafx.gate import AUTO, InputGate
from deltafx.graph_module import DeltaGraphModule
from deltafx.metrics import Metric, metric_of
from deltafx.node import DeltaNode
from deltafx.report import report
from deltafx.retune import dense, refresh_every, restored, retune, truncation_points
from deltafx.sensitivity import sensitivities
from deltafx.truncation import Threshold

METHODS = ("sensitivity", "greedy")
HELD_OUT = 1 / 3  # of the frames, the last ones: to verify
LOOKED_AT = 6  # frames for the backward pass
PROBED = 24  # frames for each probe of a threshold
LEAST, MOST = 0.003, 3.0  # thresholds, as shares; and scales
HIGHEST = 1.5  # times the median threshold: higher ones rest on what these frames happen not to show
STEP = 1.6  # by which a threshold is raised to see what it does
NEARER = 0.5  # of the way to where the Lagrangian wants a threshold
CLOSE, ROUGHLY = 1.04, 1.2  # scales that are not told apart: of what is found, and of where its search begins
NEARBY = 1.19  # factor between the scales that are tried first where the right one is about known
MARGIN = 0.9  # of the budget is spent on the frames that are calibrated on: others differ
GATES = (0.5, 1.0, 2.0)  # times the thresholds of "auto"
TIGHTEST = 0.25  # grey levels
HELPS = 0.95  # of the error is left where smaller thresholds inside still help
GROWTH, GREEDY_START = 2.0, 0.02  # of a threshold, in DeltaCNN's search

Thresholds = dict[str, float]


def calibrate(
    dm: Converted,
    frames: Iterable[Any],
    *,
    max_error: float | None = None,
    target_speedup: float | None = None,
    metric: Any = None,
    postprocess: Callable[[Any], Any] | None = None,
    method: str = "sensitivity",
    rounds: int = 1,
    refreshes: Sequence[int | None] = (),
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Find the input gate and a threshold for each truncation point of `dm`, which is left as it was.

    Args:
        dm: what `convert` returned, for any mode. Its norm and its refreshes are kept; so is its input
            gate, if it has one.
        frames: what it is called with, in order: consecutive frames of the camera. The last third is held out.
        max_error: the largest error that is accepted, in the metric's own measure, where 0 is none.
        target_speedup: instead, or as a bound beside it: how many times fewer multiply-accumulates are wanted.
        metric: "relative" (default), "top1", "detection", "keypoints", "miou", "psnr" (see `deltafx.metrics`), a
            function of (delta output, dense output) whose mean counts, or a `deltafx.metrics.Metric`.
        postprocess: for "detection": makes a list of `Detections`, one for each stream, of the outputs.
        method: "sensitivity", or "greedy": DeltaCNN's front-to-back search, to compare with.
        rounds: how often every threshold is tried at a larger value, to see what it really saves and costs.
        refreshes: values of `refresh_every` among which the one is chosen with which most is saved; half as many frames
            as are given is the largest that they can tell something of.
        progress: called with what is being done, step by step; by default a bar is shown on a terminal.

    A first estimate comes from sensitivities: with equal savings for each doubling of a threshold, and squared errors
    that add up, a Lagrangian makes thresholds inverse to the square root of what one RMS of change does to the result.
    Then each threshold is raised in turn, and moved to where saving and error are in the same proportion everywhere.
    One scale for all is searched for with the error in the end, and shrunk until the held-out frames, which follow in
    the state that the others leave, bear it out.

    Raises ValueError for a budget, metric or refresh that makes no sense, and for fewer than 6 frames.
    """
    check_converted(dm, "calibrate")
    if method not in METHODS:
        raise ValueError(f"calibrate: method is one of {', '.join(METHODS)}; got {method!r}.")
    for name, value in (("max_error", max_error), ("target_speedup", target_speedup)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"calibrate: {name} is a number larger than 0; got {value!r}.")
    for every in refreshes:
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ValueError(f"calibrate: refreshes are numbers of frames, 1 or more, or None; got {every!r}.")
    counted = metric_of(metric, postprocess)
    if max_error is None and target_speedup is None:
        max_error = getattr(counted, "default", None)
        if max_error is None:
            raise ValueError("calibrate: with a metric of your own, give max_error or target_speedup.")
    shown = [frame if isinstance(frame, tuple) else (frame,) for frame in frames]
    if len(shown) < 6:
        raise ValueError(f"calibrate: at least 6 consecutive frames are needed; got {len(shown)}.")
    with restored(dm), reporting(progress) as tell:
        search = Search(dm, shown, counted, max_error, target_speedup, tell)
        return search.greedy() if method == "greedy" else search.by_sensitivity(rounds, refreshes)


class Search:
    """One calibration: the frames, what the dense network makes of them, and what was measured so far."""

    def __init__(
        self, dm: Converted, frames: list[tuple], metric: Metric, max_error: float | None, target: float | None,
        tell: Callable[[str], None],
    ):  # fmt: skip
        self.dm, self.metric, self.max_error, self.target, self.tell = dm, metric, max_error, target, tell
        tell("dense network")
        held_out = max(2, round(len(frames) * HELD_OUT))
        self.frames, self.others = frames[:-held_out], frames[-held_out:]
        wanted = []
        for frame in frames:
            wanted.append(metric.kept(dense(dm, frame)))
            tell("dense network")
        self.wanted, self.others_wanted = wanted[:-held_out], wanted[-held_out:]
        dm(*self.frames[0])  # a model in parts makes its graphs
        self.settings = settings_of(dm)
        self.points = truncation_points(dm)
        self.gate: InputGate | None = self.settings.input_gate
        self.refresh: int | None = self.settings.refresh_every
        self.frontier: list[Measured] = []
        self.known: dict[tuple, Measured] = {}

    # -- measuring ----------------------------------------------------------------------------------------------------

    def measure(self, shape: Thresholds, scale: float = 1.0, count: int | None = None) -> Measured:
        """What thresholds do on the frames, or the first `count` of them."""
        counted = self.metric.fresh()
        ratio = self.run(scaled(shape, scale), self.frames[:count], self.wanted, counted.add)
        return Measured(scale, counted.error, ratio, {}, len(self.frames[:count]))

    def verify(self, shape: Thresholds, scale: float) -> tuple[Measured, Measured]:
        """The same, and what they go on to do on those held out."""
        predicted, counted = self.measure(shape, scale), self.metric.fresh()
        ratio = self.go_on(self.others, self.others_wanted, counted.add, len(self.frames))
        return predicted, Measured(scale, counted.error, ratio, counted.values(), len(self.others))

    def probe(self, thresholds: Thresholds) -> tuple[float, float]:
        """MACs, and the metric's smooth distance, over a few frames."""
        error = size = 0.0

        def add(got: Any, want: Any) -> None:
            nonlocal error, size
            distance = self.metric.distance(got, want)
            error, size = error + distance[0], size + distance[1]

        ratio = self.run(thresholds, self.frames[:PROBED], self.wanted, add)
        return 1 / ratio, error / size if size else error

    def run(self, thresholds: Thresholds, frames: Sequence[tuple], wanted: Sequence[Any], add: Callable) -> float:
        """Go through the frames; how many times fewer MACs than dense they take, the first left aside."""
        refresh_every(self.dm, self.refresh)
        retune(self.dm, {path: Threshold(value) for path, value in thresholds.items()}, self.settings.norm, self.gate)
        return self.go_on(frames, wanted, add, 0)

    def go_on(self, frames: Sequence[tuple], wanted: Sequence[Any], add: Callable, first: int) -> float:
        """With the frames from number `first` on. Each refresh counts as often as it will in the long run."""
        forget_counts(self.dm)
        for frame, want in zip(frames, wanted, strict=False):
            add(self.dm(*frame), want)
        totals, numbers = report(self.dm).totals, range(first, first + len(frames))
        full = sum(number == 0 or (self.refresh is not None and number % self.refresh == 0) for number in numbers)
        share, dense = 1 / (self.refresh or math.inf), totals["macs_dense"]
        rest = (totals["macs_mean"] * len(frames) - full * dense) / max(len(frames) - full, 1)
        return dense / max(share * dense + (1 - share) * rest, 1.0)

    def fits(self, found: Measured) -> bool:
        return self.max_error is None or found.error <= MARGIN * self.max_error

    def good(self, found: Measured) -> bool:
        """Whether more may be withheld, and should."""
        return self.fits(found) and (self.target is None or found.macs_ratio < self.target)

    def score(self, found: Measured) -> tuple[bool, float, float]:
        """Savings within the budget count, up to those asked for; then accuracy does."""
        return self.fits(found), min(found.macs_ratio, self.target or math.inf), -found.error

    # -- searching ----------------------------------------------------------------------------------------------------

    def by_sensitivity(self, rounds: int, refreshes: Sequence[int | None]) -> Calibration:
        if self.gate is None:
            self.gate = AUTO
        self.tell("sensitivities")
        shape = level(shape_of(self.points, self.sensitivities()))
        best = self.largest(shape, close=ROUGHLY)
        while not self.fits(best) and self.settings.input_gate is None and self.gate.threshold > TIGHTEST:
            self.tell("a tighter gate")  # what it withholds is too much already
            self.gate = replace(self.gate, threshold=self.gate.threshold / 2, noise=self.gate.noise / 2)
            best = self.largest(shape, close=ROUGHLY)
        for _ in range(rounds):
            moved = level(self.refine(scaled(shape, best.scale)))
            found = self.largest(moved, 1.0, NEARBY, ROUGHLY)
            if self.score(found) > self.score(best):  # a few frames may mislead the probes
                shape, best = moved, found
        best = self.choose_refresh(shape, best, refreshes)
        if self.settings.input_gate is None:
            best = self.choose_gate(shape, best)
        return self.finish(shape, self.largest(shape, best.scale, NEARBY), "sensitivity")

    def sensitivities(self) -> dict[str, float]:
        """Of all graphs, each for its own results."""
        step = max(1, len(self.frames) // LOOKED_AT)
        given: dict[DeltaGraphModule, list[tuple]] = {graph: [] for graph in graphs_of(self.dm)}

        def note(graph: Any, args: tuple) -> None:
            given[graph].append(pytree.tree_map_only(Tensor, torch.clone, args))

        hooks = [graph.register_forward_pre_hook(note) for graph in given]
        try:
            for frame in self.frames[::step]:
                self.dm(*frame)
        finally:
            for hook in hooks:
                hook.remove()
        found: dict[str, float] = {}
        for graph, inputs in given.items():
            found.update(sensitivities(graph, inputs))
            self.tell("sensitivities")
        return found

    def largest(self, shape: Thresholds, scale: float = 1.0, factor: float = 2.0, close: float = CLOSE) -> Measured:
        """The largest scale that the budget allows: first by a factor from `scale` on, then between two."""
        found = self.measure_at(shape, scale)
        if not self.good(found):
            factor = 1 / factor
        low, high, in_vain = found, found, 0
        most = MOST / min(shape.values())  # above, all thresholds are the largest that there are
        while LEAST < high.scale < most and self.good(high) == (factor > 1) and in_vain < 2:
            low, high = high, self.measure_at(shape, high.scale * factor)
            in_vain = in_vain + 1 if factor <= 0.5 and high.error > HELPS * low.error else 0
        low, high = (low, high) if factor > 1 else (high, low)
        while self.good(low) and not self.good(high) and high.scale / low.scale > close * close:
            middle = self.measure_at(shape, math.sqrt(low.scale * high.scale))
            low, high = (middle, high) if self.good(middle) else (low, middle)
        return max(low, high, key=self.score)

    def measure_at(self, shape: Thresholds, scale: float) -> Measured:
        key = (scale, tuple(shape.values()), self.gate, self.refresh)
        if key in self.known:
            return self.known[key]
        found = self.known[key] = self.measure(shape, scale)
        self.tell(f"{found.macs_ratio:.1f}x fewer MACs, error {found.error:.3g}")
        self.frontier.append(found)
        return found

    def refine(self, thresholds: Thresholds) -> Thresholds:
        """Move each threshold to where the error that it adds, for what it saves, is what it is everywhere."""
        macs, error = self.probe(thresholds)
        pulls: dict[str, tuple[float, float]] = {}
        for path in thresholds:
            more, worse = self.probe({**thresholds, path: thresholds[path] * STEP})
            self.tell(f"probing {path}")
            saves = max(math.log(macs / more), 1e-4)
            costs = max((worse - error) / error if error else 0.0, 1e-3)
            pulls[path] = (math.log(saves / costs), saves + 2e-3)
        middle = sum(pull * weight for pull, weight in pulls.values()) / sum(weight for _, weight in pulls.values())
        return {
            path: thresholds[path] * math.exp(max(-NEARER, min(NEARER, NEARER * (pull - middle))))
            for path, (pull, _) in pulls.items()
        }

    def choose_refresh(self, shape: Thresholds, best: Measured, refreshes: Sequence[int | None]) -> Measured:
        """Of how often all is computed, what saves most: seldom costs little, often lets thresholds grow."""
        candidates = [(self.refresh, best)]
        for self.refresh in (each for each in refreshes if each != self.settings.refresh_every):
            candidates.append((self.refresh, self.largest(shape, best.scale, NEARBY, ROUGHLY)))
        self.refresh, chosen = max(candidates, key=lambda each: self.score(each[1]))
        return chosen

    def choose_gate(self, shape: Thresholds, best: Measured) -> Measured:
        """Of gates that are looser or tighter, the one with which most is saved within the budget."""
        assert self.gate is not None
        kept, candidates = self.gate, []
        for factor in GATES:
            self.gate = replace(kept, threshold=factor * kept.threshold)
            found = best if factor == 1 else self.measure_at(shape, best.scale)
            candidates.append((self.gate, found))
        self.gate, chosen = max(candidates, key=lambda each: self.score(each[1]))
        return chosen

    def greedy(self) -> Calibration:
        """DeltaCNN's: front to back, each threshold grows while the error stays within its share of the budget."""
        if self.max_error is None:
            raise ValueError("calibrate: the greedy method needs max_error.")
        points = [path for path, node in self.points.items() if is_nonlinear(node)]
        thresholds = dict.fromkeys(self.points, 0.0)
        for number, path in enumerate(points, start=1):
            allowed, value = MARGIN * self.max_error * number / len(points), GREEDY_START
            while value <= MOST:
                found = self.measure({**thresholds, path: value}, count=PROBED)
                self.tell(f"{path}: {found.macs_ratio:.1f}x fewer MACs, error {found.error:.3g}")
                if found.error > allowed:
                    break
                thresholds[path] = value
                value *= GROWTH
        return self.finish(thresholds, self.measure(thresholds), "greedy")

    def finish(self, shape: Thresholds, best: Measured, method: str) -> Calibration:
        """Verify on the frames held out; shrink all thresholds while they show too large an error."""
        notes: list[str] = []
        scale, least = best.scale, best.scale / 4
        best, verified = self.verify(shape, scale)
        while self.max_error is not None and verified.error > self.max_error and scale > least:
            scale *= 0.85
            self.tell(f"held-out frames: error {verified.error:.3g}; smaller thresholds")
            best, verified = self.verify(shape, scale)
        if self.max_error is not None and verified.error > self.max_error:
            notes.append(f"No scale keeps the error on other frames within {self.max_error:g}.")
        if self.target is not None and best.macs_ratio < self.target:
            notes.append(f"{self.target:g} times fewer MACs are not reached within the error.")
        return Calibration(
            thresholds={path: float(f"{value:.4g}") for path, value in scaled(shape, scale).items()},
            refresh_every=self.refresh,
            norm=self.settings.norm,
            input_gate=self.gate,
            refresh_within=self.settings.refresh_within,
            refresh_touched=self.settings.refresh_touched,
            fingerprint={path: fingerprint_of(node) for path, node in self.points.items()},
            metric=self.metric.name,
            method=method,
            max_error=self.max_error,
            target_speedup=self.target,
            predicted=best,
            verified=verified,
            frontier=tuple(sorted(self.frontier, key=lambda each: each.macs_ratio)),
            notes=tuple(notes),
        )


# ---------------------------------------------------------------------------------------------------------------------
# Thresholds


def is_nonlinear(node: DeltaNode) -> bool:
    """Whether it ends with an activation, as DeltaCNN's truncation points do."""
    return len(node.stages) > 1 and not node.stages[-1].op.is_linear([True] * len(node.stages[-1].operands))


def shape_of(points: Mapping[str, DeltaNode], sensitivity: Mapping[str, float]) -> Thresholds:
    """Thresholds inverse to the square root of the sensitivities, around 0.3; unknown ones are taken for average."""
    known = [value for value in sensitivity.values() if value > 0]
    if not known:
        return dict.fromkeys(points, 0.3)
    middle = median(known)
    return {path: 0.3 * math.sqrt(middle / max(sensitivity.get(path, middle), 1e-12 * middle)) for path in points}


def level(shape: Thresholds) -> Thresholds:
    """None far above the others."""
    highest = HIGHEST * median(shape.values())
    return {path: min(value, highest) for path, value in shape.items()}


def scaled(shape: Thresholds, scale: float) -> Thresholds:
    return {path: min(value * scale, MOST) for path, value in shape.items()}


@contextlib.contextmanager
def reporting(progress: Callable[[str], None] | None) -> Iterator[Callable[[str], None]]:
    """What is called after each step: the user's own function or, on a terminal, a bar with rich."""
    if progress is not None or not sys.stderr.isatty():
        yield progress or (lambda what: None)
        return
    try:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda what: None
        return
    steps = TextColumn("calibrating, step {task.completed}: {task.description}")
    columns = (SpinnerColumn(), steps, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what: bar.update(task, advance=1, description=what)
