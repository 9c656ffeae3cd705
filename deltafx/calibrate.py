"""`deltafx.calibrate`: thresholds and gate that save most within an error, found on frames of the camera."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from deltafx.calibration import Calibration, Measured, fingerprint_of
from deltafx.converted import Converted, check_converted, settings_of
from deltafx.gate import AUTO, InputGate
from deltafx.greedy import greedy
from deltafx.metrics import metric_of
from deltafx.retune import restored, truncation_points
from deltafx.screening import slopes, two_level_design
from deltafx.starts import Start, starts
from deltafx.trials import MOST, Thresholds, Trials, level, scaled, together

METHODS = ("sensitivity", "greedy")
HELD_OUT = 1 / 3  # of the frames, the last ones: to verify
SCREENED, MOST_SCREENED = 2200, 48  # frames of all runs of a screening design, about; and of one at most
FEWEST = 12  # of one
LEAST = 0.003  # scale
STEP = 0.25  # by which logarithms of thresholds are raised and lowered to see what they do
MOVES = (0.6, 0.3)  # that of the threshold that is moved most; the second where the first goes too far
CLOSE, ROUGHLY = 1.04, 1.2  # scales that are not told apart: of what is found, and of where its search begins
NEARBY = 1.19  # factor between the scales that are tried first where the right one is about known
SAME, TRIES = 0.02, 5  # savings that are not told apart, as a share; runs to come as near
LOOSER, TIGHTER = (2.0, 4.0), (0.5,)  # times the threshold of the gate
OFTENER = 3  # times, what was touched may be computed anew
TIGHTEST = 0.25  # grey levels
HELPS = 0.95  # of the error is left where smaller thresholds inside still help
SHRINKS = 0.88  # a scale, where frames held out show too large an error


def calibrate(
    dm: Converted,
    frames: Iterable[Any],
    *,
    max_error: float | None = None,
    target_speedup: float | None = None,
    metric: Any = None,
    postprocess: Callable[[Any], Any] | None = None,
    method: str = "sensitivity",
    rounds: int = 2,
    refreshes: Sequence[int | None] = (),
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Find the input gate and a threshold for each truncation point of `dm`, which is left as it was.

    Args:
        dm: what `convert` returned, for any mode. Its refreshes are kept, but what was touched may be computed anew
            more often; so is its input gate, if it has one, and then its norm. A norm of "max" is kept in any case.
        frames: what it is called with, in order: consecutive frames of the camera. The last third is held out.
        max_error: the largest error that is accepted, in the metric's own measure, where 0 is none.
        target_speedup: instead, or as a bound beside it: how many times fewer multiply-accumulates are wanted.
        metric: "relative" (default), "top1", "detection", "keypoints", "miou", "psnr" (see `deltafx.metrics`), a
            function of (delta output, dense output) whose mean counts, or a `deltafx.metrics.Metric`.
        postprocess: for "detection": makes a list of `Detections`, one for each stream, of the outputs.
        method: "sensitivity", or "greedy": DeltaCNN's front-to-back search, to compare with.
        rounds: how often all thresholds are moved by what they are measured to save and to cost.
        refreshes: values of `refresh_every` among which the one is chosen with which most is saved; half as many frames
            as are given is the largest that they can tell something of.
        progress: called with what is being done, step by step; by default a bar is shown on a terminal.

    It starts from the best of three: thresholds by sensitivity (with equal savings for each doubling of a threshold,
    and squared errors that add up, a Lagrangian makes them inverse to the square root of what one RMS of change does to
    the result), one for all but the ends, and DeltaCNN's rule. How often what was touched is computed anew follows, and
    the gate. Then all thresholds are moved at once along what a screening design measures: those are raised that save
    much for what they cost. All these are compared at the same savings, by the metric's smooth distance, of which few
    frames tell more than of its error. One scale for all is searched for with the error in the end, with its standard
    error on top. It is shrunk until the held-out frames, which follow in the state that the others leave, bear it out.

    Raises ValueError for a budget, metric or refresh that makes no sense, for fewer than 6 frames, and for a network
    that multiplies nothing.
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
    if method == "greedy" and max_error is None:
        raise ValueError("calibrate: the greedy method needs max_error.")
    if len(shown) < 6:
        raise ValueError(f"calibrate: at least 6 consecutive frames are needed; got {len(shown)}.")
    with restored(dm), reporting(progress) as tell:
        held_out = max(2, round(len(shown) * HELD_OUT))
        trials = Trials(dm, shown[:-held_out], shown[-held_out:], counted, tell)
        search = Search(trials, max_error, target_speedup, tell)
        if method == "greedy":
            return search.finish(*greedy(trials, search.points, max_error, tell), method)
        return search.run(rounds, refreshes)


class Search:
    """One calibration: what is looked for, and what was measured so far."""

    def __init__(self, trials: Trials, max_error: float | None, target: float | None, tell: Callable[[str], None]):
        self.trials, self.max_error, self.target, self.tell = trials, max_error, target, tell
        self.settings = settings_of(trials.dm)
        self.points = truncation_points(trials.dm)
        self.frontier: list[Measured] = []
        self.known: dict[tuple, Measured] = {}

    def fits(self, *found: Measured) -> bool:
        """Whether the error is within the budget, and would be on as many other frames."""
        if self.max_error is None:
            return True
        error, deviation = together(*found)
        return error + deviation <= self.max_error

    def good(self, found: Measured) -> bool:
        """Whether more may be withheld, and should."""
        return self.fits(found) and (self.target is None or found.macs_ratio < self.target)

    def score(self, found: Measured) -> tuple[bool, float, float]:
        """Savings within the budget count, up to those asked for; then accuracy does."""
        return self.fits(found), min(found.macs_ratio, self.target or math.inf), -found.distance

    # -- searching ----------------------------------------------------------------------------------------------------

    def run(self, rounds: int, refreshes: Sequence[int | None]) -> Calibration:
        start, best = self.choose_start()
        shape = start.shape
        if not self.fits(best) and self.settings.input_gate is None:
            best = self.tighten_gate(shape, best)
        best = self.choose_touched(shape, best)
        if self.settings.input_gate is None:
            best = self.choose_gate(shape, best)
        for number in range(rounds):
            moved = self.move(shape, best, number)
            if moved is None:
                break
            shape, best = moved
        best = self.largest(shape, best.scale, NEARBY, ROUGHLY)
        best = self.choose_refresh(shape, best, refreshes)
        return self.finish(shape, self.largest(shape, best.scale, NEARBY), "sensitivity")

    def choose_start(self) -> tuple[Start, Measured]:
        """Of thresholds that one could begin with, those with which most is saved within the budget."""
        found = []
        for start in starts(self.trials, self.settings, self.points, self.tell):
            self.trials.norm, self.trials.gate = start.norm, start.gate
            found.append((start, self.largest(start.shape, close=ROUGHLY)))
        start, best = max(found, key=lambda each: self.score(each[1]))
        self.trials.norm, self.trials.gate = start.norm, start.gate
        return start, best

    def tighten_gate(self, shape: Thresholds, best: Measured) -> Measured:
        """Until what the gate withholds by itself is not too much already."""
        while not self.fits(best) and self.gate.threshold > TIGHTEST:
            self.tell("a tighter gate")
            self.trials.gate = replace(self.gate, threshold=self.gate.threshold / 2, noise=self.gate.noise / 2)
            best = self.largest(shape, close=ROUGHLY)
        return best

    @property
    def gate(self) -> InputGate:
        return self.trials.gate or AUTO

    def largest(self, shape: Thresholds, scale: float = 1.0, factor: float = 2.0, close: float = CLOSE) -> Measured:
        """The largest scale that the budget allows: first by a factor from `scale` on, then between two."""
        found = self.measure_at(shape, scale)
        if not self.good(found):
            factor = 1 / factor
        low, high, in_vain = found, found, 0
        least = min((value for value in shape.values() if value > 0), default=MOST)
        most = MOST / least  # above, all thresholds are the largest that there are
        while LEAST < high.scale < most and self.good(high) == (factor > 1) and in_vain < 2:
            low, high = high, self.measure_at(shape, high.scale * factor)
            in_vain = in_vain + 1 if factor <= 0.5 and high.error > HELPS * low.error else 0
        low, high = (low, high) if factor > 1 else (high, low)
        while self.good(low) and not self.good(high) and high.scale / low.scale > close * close:
            middle = self.measure_at(shape, math.sqrt(low.scale * high.scale))
            low, high = (middle, high) if self.good(middle) else (low, middle)
        return max(low, high, key=self.score)

    def measure_at(self, shape: Thresholds, scale: float) -> Measured:
        trials = self.trials
        key = (scale, tuple(shape.values()), trials.norm, trials.gate, trials.refresh, trials.touched)
        if key in self.known:
            return self.known[key]
        found = self.known[key] = trials.measure(shape, scale)
        self.tell(f"{found.macs_ratio:.1f}x fewer MACs, error {found.error:.3g}")
        self.frontier.append(found)
        return found

    def move(self, shape: Thresholds, best: Measured, number: int) -> tuple[Thresholds, Measured] | None:
        """Other thresholds that save as much with a smaller distance, if there are some where the slopes point."""
        at = {path: value for path, value in scaled(shape, best.scale).items() if value > 0}
        count = max(FEWEST, min(MOST_SCREENED, SCREENED // len(two_level_design(len(at)))))
        first = number * count % max(1, len(self.trials.frames) - count)

        def probe(thresholds: Thresholds) -> tuple[float, float]:
            self.tell("screening all thresholds")
            found = self.trials.measure(thresholds, first=first, count=count)
            return math.log(1 / found.macs_ratio), math.log(max(found.distance, 1e-12))

        macs, distances = slopes(probe, at, STEP)
        towards = direction(macs, distances)
        for step in MOVES if towards else ():
            moved = {**shape, **level({path: value * math.exp(step * towards[path]) for path, value in at.items()})}
            found = self.with_savings(moved, best.macs_ratio)
            if found.distance < best.distance and found.macs_ratio >= (1 - SAME) * best.macs_ratio:
                return moved, found
        return None

    def with_savings(self, shape: Thresholds, macs_ratio: float, scale: float = 1.0) -> Measured:
        """The scale with which so many multiply-accumulates are saved, about; looked for from `scale` on."""
        found = self.measure_at(shape, scale)
        for _ in range(TRIES - 1):
            miss = macs_ratio / found.macs_ratio
            if abs(miss - 1) < SAME:
                break
            found = self.measure_at(shape, found.scale * miss)
        return found

    def choose_refresh(self, shape: Thresholds, best: Measured, refreshes: Sequence[int | None]) -> Measured:
        """Of how often all is computed, what saves most: seldom costs little, often lets thresholds grow."""
        candidates = [(self.trials.refresh, best)]
        for self.trials.refresh in (each for each in refreshes if each != self.settings.refresh_every):
            candidates.append((self.trials.refresh, self.largest(shape, best.scale, NEARBY, ROUGHLY)))
        self.trials.refresh, chosen = max(candidates, key=lambda each: self.score(each[1]))
        return chosen

    def choose_touched(self, shape: Thresholds, best: Measured) -> Measured:
        """Whether what was touched is better computed anew more often, at the same savings."""
        if self.trials.touched is None or self.trials.touched < OFTENER:
            return best
        before, self.trials.touched = self.trials.touched, self.trials.touched // OFTENER
        found = self.better(shape, best)
        if found is None:
            self.trials.touched = before
        return found or best

    def choose_gate(self, shape: Thresholds, best: Measured) -> Measured:
        """Of gates that are looser, or else tighter, the one with the smallest distance at the same savings."""
        first = self.gate
        for factors in (LOOSER, TIGHTER):
            for factor in factors:
                before, self.trials.gate = self.trials.gate, replace(first, threshold=factor * first.threshold)
                found = self.better(shape, best)
                if found is None:
                    self.trials.gate = before
                    break
                best = found
            if self.trials.gate != first:
                break
        return best

    def better(self, shape: Thresholds, best: Measured) -> Measured | None:
        """What the present gate and refreshes give at the savings of `best`, if its distance is smaller."""
        found = self.with_savings(shape, best.macs_ratio, best.scale)
        return found if found.macs_ratio >= (1 - SAME) * best.macs_ratio and found.distance < best.distance else None

    def finish(self, shape: Thresholds, best: Measured, method: str) -> Calibration:
        """Verify on the frames held out; shrink all thresholds while they show too large an error."""
        scale, least = best.scale, best.scale / 4
        best, verified = self.trials.verify(shape, scale)
        while not self.holds(best, verified) and scale > least:
            scale *= SHRINKS
            self.tell(f"held-out frames: error {verified.error:.3g}; smaller thresholds")
            best, verified = self.trials.verify(shape, scale)
        notes: list[str] = []
        if self.max_error is not None and verified.error > self.max_error:
            notes.append(f"No scale keeps the error on other frames within {self.max_error:g}.")
        if self.target is not None and best.macs_ratio < self.target:
            notes.append(f"{self.target:g} times fewer MACs are not reached within the error.")
        return Calibration(
            thresholds={path: float(f"{value:.4g}") for path, value in scaled(shape, scale).items()},
            refresh_every=self.trials.refresh,
            norm=self.trials.norm,
            input_gate=self.trials.gate,
            refresh_within=self.settings.refresh_within,
            refresh_touched=self.trials.touched,
            fingerprint={path: fingerprint_of(node) for path, node in self.points.items()},
            metric=self.trials.metric.name,
            method=method,
            max_error=self.max_error,
            target_speedup=self.target,
            predicted=best,
            verified=verified,
            frontier=tuple(sorted(self.frontier, key=lambda each: each.macs_ratio)),
            notes=tuple(notes),
        )

    def holds(self, best: Measured, verified: Measured) -> bool:
        """Whether the frames held out bear it out: by themselves, and with the others beyond chance."""
        return self.max_error is None or (verified.error <= self.max_error and self.fits(best, verified))


def direction(macs: Thresholds, distances: Thresholds) -> Thresholds:
    """Where distance falls most with as many multiply-accumulates, the largest step 1; empty where nothing is known."""
    square = sum(slope * slope for slope in macs.values())
    if square == 0:
        return {}
    share = sum(macs[path] * distances[path] for path in macs) / square
    downhill = {path: share * macs[path] - distances[path] for path in macs}
    longest = max(map(abs, downhill.values()))
    return {path: value / longest for path, value in downhill.items()} if longest else {}


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
