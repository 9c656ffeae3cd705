"""Networks over the same video, frame by frame: a dense one beside converted ones, timed and compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from deltafx.build_info import build_info
from deltafx.convert import convert
from deltafx.converted import Converted, forget_counts, reset, silence
from deltafx.detections import Agreement, Detections
from deltafx.masks import mask_of, over_frame
from deltafx.measure import relative_error, tensors_of
from deltafx.networks import Network
from deltafx.report import report


class Figures(NamedTuple):
    """What one frame took."""

    ms: float
    macs: int
    macs_dense: int
    update_rate: float


def means(done: Sequence[Figures]) -> dict[str, Any]:
    """Means over all frames but the first, which is in full; over that one where it is alone."""
    ms, macs, macs_dense, update_rate = map(statistics.fmean, zip(*(done[1:] or done), strict=True))
    return {
        "frames": len(done), "ms": ms, "update_rate": update_rate, "macs": macs, "macs_dense": macs_dense,
        "macs_ratio": macs_dense / macs if macs else None,
    }  # fmt: skip


@dataclass(frozen=True)
class Step:
    """What a converted network did with one frame."""

    ms: float
    macs: int
    macs_dense: int
    mask: np.ndarray  # uint8 [H, W]: which of the input's pixels were updated
    outputs: Any
    meaning: Any  # what the outputs say: Detections, a class, or None

    @property
    def update_rate(self) -> float:
        """Share of the input's pixels."""
        return float(np.count_nonzero(self.mask)) / self.mask.size

    @property
    def figures(self) -> Figures:
        return Figures(self.ms, self.macs, self.macs_dense, self.update_rate)


def advance(dm: Converted, network: Network, frame: np.ndarray) -> Step:
    """Show `dm`, which was converted from `network` with its preprocess, one uint8 RGB frame `[H, W, 3]`."""
    started = time.perf_counter()
    outputs = dm(frame)
    ms = 1e3 * (time.perf_counter() - started)
    totals = report(dm).totals
    mask = over_frame(mask_of(dm), frame)
    return Step(ms, totals["macs"], totals["macs_dense"], mask, outputs, network.meaning(outputs))


@dataclass
class Run:
    """What a converted network did with many frames."""

    mode: str
    dm: Converted
    ms: list[float] = field(default_factory=list)
    macs: list[int] = field(default_factory=list)
    update_rates: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)  # relative to the dense network
    agreement: Agreement = field(default_factory=Agreement)
    same_class: list[bool] = field(default_factory=list)

    def take(self, step: Step) -> None:
        self.ms.append(step.ms)
        self.macs.append(step.macs)
        self.update_rates.append(step.update_rate)

    def judge(self, step: Step, want: Any, meaning: Any) -> None:
        """Count how far a step is from what the dense network gave, and from what that means."""
        self.errors.append(relative_error(tensors_of(step.outputs), tensors_of(want)))
        if isinstance(meaning, Detections):
            self.agreement.add(step.meaning, meaning)
        elif meaning is not None:
            self.same_class.append(step.meaning == meaning)

    def summary(self, dense_ms: list[float], macs_dense: int) -> dict[str, Any]:
        """Means over the frames; the speed-up is that of the mean times."""
        macs, ms = statistics.fmean(self.macs), statistics.fmean(self.ms)
        result = {
            "mode": self.mode,
            "ms": ms,
            "ms_median": statistics.median(self.ms),
            "ms_quartiles": quartiles(self.ms),
            "speed_up": statistics.fmean(dense_ms) / ms,
            "update_rate": statistics.fmean(self.update_rates),
            "macs": macs,
            "macs_ratio": macs_dense / macs if macs else None,
            "relative_error": statistics.fmean(self.errors),
        }
        if self.agreement.frames:
            result["f1"] = self.agreement.f1
            result["f1_with_hysteresis"] = self.agreement.f1_with_hysteresis
        if self.same_class:
            result["same_class"] = statistics.fmean(self.same_class)
        return result


@dataclass(frozen=True)
class Shown:
    """One frame, uint8 RGB `[H, W, 3]`, and what became of it."""

    frame: np.ndarray
    dense_ms: float | None  # None where it was left out
    dense_meaning: Any
    steps: dict[str, Step]  # by mode


class Playback:
    """A dense network, in eager PyTorch and channels last, and one converted from it in each mode.

    `options` are those of `convert`. `converted` has networks that are converted already, by what to call them; they
    come after those of `modes`. Changes the memory format of the network's weights, to channels last. Raises
    ConvertError where it does not convert.
    """

    def __init__(
        self,
        network: Network,
        modes: Iterable[str] = (),
        options: Mapping[str, Any] | None = None,
        converted: Mapping[str, Converted] | None = None,
    ):
        self.network = network
        self.runs = [
            Run(mode, convert(network.model, mode=mode, preprocess=network.preprocess, options=dict(options or {})))
            for mode in modes
        ]
        self.runs += [Run(name, dm) for name, dm in (converted or {}).items()]
        for run in self.runs:
            silence(run.dm)  # the figures say it
        self.dense = network.model.to(memory_format=torch.channels_last)
        self.dense_ms: list[float] = []
        self.macs_dense = 0
        self.size: list[int] = []  # of the frames, height and width

    def play(self, frames: Iterable[np.ndarray], dense_every: int = 1) -> Iterator[Shown]:
        """Go through frames of one size, from the start: the first of them is computed in full, and counts nowhere.

        The dense network sees the first two, and then every n-th only; it is then that results are compared. The means
        in the converted networks' reports are over the same frames as those of `summaries`.
        """
        for run in self.runs:
            reset(run.dm)
        for number, frame in enumerate(frames):
            want, dense_ms, meaning = None, None, None
            if number == 0 or number % dense_every == 1 % dense_every:
                want, dense_ms = self.run_dense(frame)
                meaning = self.network.meaning(want)
            steps = {run.mode: advance(run.dm, self.network, frame) for run in self.runs}
            self.size = list(frame.shape[:2])
            self.macs_dense = max(step.macs_dense for step in steps.values())
            for run in self.runs:
                if number == 0:
                    forget_counts(run.dm)
                    continue
                run.take(steps[run.mode])
                if dense_ms is not None:
                    run.judge(steps[run.mode], want, meaning)
            if number and dense_ms is not None:
                self.dense_ms.append(dense_ms)
            yield Shown(frame, dense_ms, meaning, steps)

    def run_dense(self, frame: np.ndarray) -> tuple[Any, float]:
        """The dense network's result, and the milliseconds that it took without the preprocessing."""
        with torch.inference_mode():
            pixels = self.network.preprocess(frame).contiguous(memory_format=torch.channels_last)
            started = time.perf_counter()
            outputs = self.dense(pixels)
            return outputs, 1e3 * (time.perf_counter() - started)

    def summaries(self) -> list[dict[str, Any]]:
        return [run.summary(self.dense_ms, self.macs_dense) for run in self.runs] if self.dense_ms else []

    def result(self, clip: str, stopped: str | None = None) -> dict[str, Any]:
        """What came out, for JSON: means, and every frame but the first. `stopped` says why it ended early, if it did.

        It needs two frames at least.
        """
        dense = {
            "ms": statistics.fmean(self.dense_ms), "ms_median": statistics.median(self.dense_ms),
            "ms_quartiles": quartiles(self.dense_ms), "macs": self.macs_dense,
        }  # fmt: skip
        by_frame: dict[str, Any] = {"dense_ms": self.dense_ms}
        for run in self.runs:
            by_frame[run.mode] = {
                "ms": run.ms, "macs": run.macs, "update_rate": run.update_rates, "relative_error": run.errors,
            }  # fmt: skip
        return {
            "network": self.network.name, "note": self.network.note, "clip": clip, "frames": len(self.runs[0].ms) + 1,
            "stopped": stopped, "size": self.size, "threads": torch.get_num_threads(), "build": build_info(),
            "dense": dense, "modes": self.summaries(), "by_frame": by_frame,
        }  # fmt: skip


def quartiles(ms: list[float]) -> list[float]:
    """Between which values half of them lie."""
    ordered = sorted(ms)
    quarter = len(ordered) // 4
    return [ordered[quarter], ordered[-1 - quarter]]
