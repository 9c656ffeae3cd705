"""What thresholds and a gate do on the frames of a calibration: what they save, and how far results are from dense."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, stdev
from typing import Any

import torch
from torch import Tensor

from deltafx.calibration import Measured
from deltafx.converted import Converted, forget_counts, settings_of
from deltafx.gate import InputGate
from deltafx.measure import tensors_of
from deltafx.metrics import Metric
from deltafx.report import report
from deltafx.retune import dense, refresh, retune
from deltafx.truncation import Threshold

BLOCKS, LEAST_BLOCK = 8, 4  # runs of neighbouring frames by which errors are told from chance; frames of one at least
UNKNOWN = 0.1  # of the error, where there are too few frames to tell
SAMPLED = 50_000  # elements of an output that are remembered of a frame, about
MOST = 3.0  # a threshold, as a share
HIGHEST = 1.5  # times the median: higher ones rest on what these frames happen not to show

Thresholds = dict[str, float]


@dataclass(frozen=True)
class Wanted:
    """What is remembered of the dense network's outputs for a frame."""

    kept: Any  # what the metric asks for
    samples: list[Tensor]

    @classmethod
    def of(cls, metric: Metric, outputs: Any) -> Wanted:
        return cls(metric.kept(outputs), samples_of(outputs))


def samples_of(outputs: Any) -> list[Tensor]:
    """Of each output elements at equal distances, odd ones so that all channels and columns take part."""
    flat = [each.detach().flatten().double() for each in tensors_of(outputs) if each.is_floating_point()]
    return [each[:: len(each) // SAMPLED // 2 * 2 + 1].clone() for each in flat]


class Errors:
    """Adds up what a run of frames shows: by the metric, over all of them and by block, and distances.

    A metric sees what these frames show: a detector's level for large objects may stand for nothing where there are
    none. So `distance` is the mean (of logarithms) of the metric's own and of how far outputs are from the dense
    network's, each relative to its own size.
    """

    def __init__(self, metric: Metric, frames: int):
        self.metric, self.whole = metric, metric.fresh()
        self.each = max(LEAST_BLOCK, math.ceil(frames / BLOCKS))
        self.blocks: list[Metric] = []
        self.counted = 0
        self.difference = self.size = 0.0
        self.of_outputs: list[Tensor] = []  # squared differences and sizes

    def add(self, outputs: Any, wanted: Wanted) -> None:
        got, want = self.metric.kept(outputs), wanted.kept
        if self.counted % self.each == 0:
            self.blocks.append(self.metric.fresh())
        self.counted += 1
        for metric in (self.whole, self.blocks[-1]):
            metric.add(got, want)
        difference, size = self.metric.distance(got, want)
        self.difference, self.size = self.difference + difference, self.size + size
        samples = samples_of(outputs)
        if [each.shape for each in samples] != [each.shape for each in wanted.samples]:
            return  # boxes, as many as there are
        pairs = zip(samples, wanted.samples)
        found = [torch.stack([(a - b).square().sum(), b.square().sum()]) for a, b in pairs]
        self.of_outputs = [a + b for a, b in zip(self.of_outputs, found)] if self.of_outputs else found

    @property
    def distance(self) -> float:
        by_metric = self.difference / self.size if self.size else self.difference
        shares = [(each[0] / each[1]).item() for each in self.of_outputs if each[1] > 0]
        return math.sqrt(by_metric * sum(shares) / len(shares)) if shares else by_metric

    @property
    def deviation(self) -> float:
        """By how much the error of as many frames like these may differ: its standard error, from that of blocks."""
        if len(self.blocks) < 2:
            return UNKNOWN * self.whole.error
        return stdev([block.error for block in self.blocks]) / math.sqrt(len(self.blocks))

    def measured(self, scale: float, macs_ratio: float, values: bool = False) -> Measured:
        shown = self.whole.values() if values else {}
        return Measured(
            scale, self.whole.error, macs_ratio, shown, self.counted, deviation=self.deviation, distance=self.distance
        )


class Trials:
    """Runs a converted network, with other thresholds each time, over frames of which the dense results are known.

    `norm`, `gate`, `refresh` and `touched` are what it is run with next. The frames are divided: `frames` are searched
    on, and `others` follow them, to verify.
    """

    def __init__(self, dm: Converted, frames: Sequence[tuple], others: Sequence[tuple], metric: Metric, tell: Callable):
        self.dm, self.frames, self.others, self.metric = dm, frames, others, metric

        def results(frames: Sequence[tuple]) -> list[Wanted]:
            found = []
            for frame in frames:
                tell("dense network")
                found.append(Wanted.of(metric, dense(dm, frame)))
            return found

        self.wanted, self.others_wanted = results(frames), results(others)
        dm(*frames[0])  # a model in parts makes its graphs
        if not report(dm).totals["macs_dense"]:
            raise ValueError("calibrate: the network has no multiply-accumulates, so that there is nothing to save.")
        settings = settings_of(dm)
        self.norm: str = settings.norm
        self.gate: InputGate | None = settings.input_gate
        self.refresh: int | None = settings.refresh_every
        self.touched: int | None = settings.refresh_touched

    def measure(self, shape: Thresholds, scale: float = 1.0, first: int = 0, count: int | None = None) -> Measured:
        """What thresholds do on the frames, or on `count` of them from number `first` on."""
        end = None if count is None else first + count
        self.begin(scaled(shape, scale))
        return self.go_on(self.frames[first:end], self.wanted[first:end], 0, scale)

    def verify(self, shape: Thresholds, scale: float) -> tuple[Measured, Measured]:
        """The same, and what they go on to do on those held out."""
        predicted = self.measure(shape, scale)
        return predicted, self.go_on(self.others, self.others_wanted, len(self.frames), scale, values=True)

    def begin(self, thresholds: Thresholds) -> None:
        refresh(self.dm, self.refresh, self.touched)
        retune(self.dm, {path: Threshold(value) for path, value in thresholds.items()}, self.norm, self.gate)

    def go_on(
        self, frames: Sequence[tuple], wanted: Sequence[Wanted], first: int, scale: float, values: bool = False
    ) -> Measured:
        """With the frames from number `first` on. Each refresh counts as often as it will in the long run."""
        errors = Errors(self.metric, len(frames))
        forget_counts(self.dm)
        for frame, want in zip(frames, wanted, strict=True):
            errors.add(self.dm(*frame), want)
        totals, numbers = report(self.dm).totals, range(first, first + len(frames))
        full = sum(number == 0 or (self.refresh is not None and number % self.refresh == 0) for number in numbers)
        share, dense = 1 / (self.refresh or math.inf), totals["macs_dense"]
        rest = (totals["macs_mean"] * len(frames) - full * dense) / max(len(frames) - full, 1)
        return errors.measured(scale, dense / max(share * dense + (1 - share) * rest, 1.0), values)


def together(*parts: Measured) -> tuple[float, float]:
    """The error over several runs of frames, and its deviation."""
    frames = sum(part.frames for part in parts)
    error = sum(part.frames * part.error for part in parts) / frames
    return error, math.sqrt(sum((part.frames / frames * part.deviation) ** 2 for part in parts))


def level(shape: Thresholds) -> Thresholds:
    """None far above the others; those of 0 do not count, and stay."""
    above = [value for value in shape.values() if value > 0]
    highest = HIGHEST * median(above) if above else 0.0
    return {path: min(value, highest) for path, value in shape.items()}


def scaled(shape: Thresholds, scale: float) -> Thresholds:
    return {path: min(value * scale, MOST) for path, value in shape.items()}
