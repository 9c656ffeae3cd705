"""Multiply-accumulates against accuracy on real clips: calibrated thresholds, DeltaCNN's rule, skipping whole frames.

Run as `python -m benchmarks.accuracy`; see README.md.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

import deltafx
from benchmarks.accuracy_cases import CASES
from benchmarks.accuracy_table import Row, plot, table
from benchmarks.measure import surroundings
from deltafx.calibration import Calibration
from deltafx.converted import silence
from deltafx.gate import AUTO
from deltafx.metrics import Metric, Relative, metric_of
from deltafx.models_zoo.assets import ASSETS, fetch
from deltafx.report import report
from deltafx.retune import retune, truncation_points
from deltafx.starts import PAPER, is_nonlinear
from deltafx.truncation import Threshold
from deltafx.video import Video

PAPER_THRESHOLDS = (0.3, 0.6, 1.0, 1.5, 2.0)
SKIPPED = (1.0, 2.0, 4.0)  # grey levels that a frame must differ by, on average, to be computed
ALL, CALIBRATED, FRONTIER, OTHERS, GREEDY = "all", "calibrated", "frontier", "others", "greedy"
SCALES = (0.5, 0.75, 1.33)  # of calibrated thresholds, to show where they lie on their frontier
DENSE_EVERY = 8  # frames; the dense network is timed on these, in the same run

say = Console(stderr=True, highlight=False)


class Bench:
    """One case: its frames, and what the dense network says of them."""

    def __init__(self, name: str, folder: Path, calibrations: Path, keep: Callable[[Row], None]):
        self.name, self.case, self.calibrations, self.keep = name, CASES[name], calibrations, keep
        self.network = self.case.network(folder)
        self.folder = folder
        self.dense = self.network.model.to(memory_format=torch.channels_last)
        self.metric = metric_of(self.case.metric, self.network.postprocess)
        self.shown = list(self.frames(self.case.measured))
        say.print(f"{name}: {len(self.shown)} frames, the dense network")
        self.wanted = []
        for frame in self.shown:
            result, _ = self.run_dense(frame)
            self.wanted.append(result)

    def frames(self, which: tuple[int, int]) -> Iterator[np.ndarray]:
        path = self.folder / self.case.clip
        with Video(fetch(self.case.clip) if self.case.clip in ASSETS else path) as video:
            size = self.network.fit(*(self.case.size or (video.height, video.width)))
            yield from itertools.islice(video.frames(which[1], size), *which)

    def run_dense(self, frame: np.ndarray) -> tuple[Any, float]:
        with torch.inference_mode():
            pixels = self.network.preprocess(frame).contiguous(memory_format=torch.channels_last)
            started = time.process_time()
            result = self.dense(pixels)
            return result, time.process_time() - started

    def convert(self, **arguments: Any) -> Any:
        dm = deltafx.convert(self.network.model, preprocess=self.network.preprocess, **arguments)
        silence(dm)
        return dm

    def measure(self, policy: str, dm: Any, **more: Any) -> Row:
        """Show `dm` the frames; the dense network is timed in between."""
        deltafx.reset(dm)
        counted, relative, macs, seconds, dense = self.metric.fresh(), Relative(), [], [], []
        for number, (frame, want) in enumerate(zip(self.shown, self.wanted)):
            started = time.process_time()
            got = dm(frame)
            seconds.append(time.process_time() - started)
            macs.append(report(dm).totals["macs"])
            self.count(counted, relative, got, want)
            if number % DENSE_EVERY == 1:
                dense.append(self.run_dense(frame)[1])
        totals = report(dm).totals
        ratio = totals["macs_dense"] / max(statistics.fmean(macs[1:]), 1)
        return self.note(policy, ratio, seconds[1:], dense, counted, relative, **more)

    def count(self, counted: Metric, relative: Relative, got: Any, want: Any) -> None:
        counted.add(got, want)
        if counted.name != "relative":
            relative.add(got, want)

    def note(
        self, policy: str, ratio: float, seconds: list[float], dense: list[float], counted: Metric, relative: Relative,
        **more: Any,
    ) -> Row:  # fmt: skip
        values = {**counted.values(), **({"relative": relative.error} if counted.name != "relative" else {})}
        ms, ms_dense = (1e3 * statistics.median(each) for each in (seconds, dense))
        row = Row(self.name, policy, ratio, ms, ms_dense, values, len(self.shown), **more)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        say.print(f"{self.name}: {policy}: {ratio:.2f}x fewer MACs, {ms:.1f} ms (dense {ms_dense:.1f}), {shown}")
        self.keep(row)
        return row

    def skip_frames(self, levels: float) -> None:
        """Whole frames: one that differs little from the last one computed gives that one's result again."""
        counted, relative, seconds, dense, computed = self.metric.fresh(), Relative(), [], [], 0
        last: np.ndarray | None = None
        kept: Any = None
        for number, (frame, want) in enumerate(zip(self.shown, self.wanted)):
            started = time.process_time()
            if last is None or np.abs(frame.astype(np.int16) - last).mean() > levels:
                last, (kept, _) = frame, self.run_dense(frame)
                computed += number > 0
            seconds.append(time.process_time() - started)
            self.count(counted, relative, kept, want)
            if number % DENSE_EVERY == 1:
                dense.append(self.run_dense(frame)[1])
        ratio = (len(self.shown) - 1) / max(computed, 1)
        mean = [statistics.fmean(seconds[1:])]  # the median is one frame or the other
        self.note(f"skip frames that differ by {levels:g} levels", ratio, mean, dense, counted, relative)

    def paper(self, thresholds: tuple[float, ...]) -> None:
        """DeltaCNN's kind of rule: one threshold at all activations, maximum norm, a gate pixel by pixel."""
        dm = self.convert(norm="max", input_gate=PAPER)
        dm(self.shown[0])
        activations = [path for path, node in truncation_points(dm).items() if is_nonlinear(node)]
        for threshold in thresholds:
            retune(dm, {path: Threshold(threshold) for path in activations}, "max", PAPER)
            self.measure(f"paper's rule, {threshold:g} everywhere", dm)

    def calibrate(self, budget: float, method: str = "sensitivity") -> None:
        searches_as_the_paper = method == "greedy"
        dm = self.convert(norm="max", input_gate=PAPER) if searches_as_the_paper else self.convert(**self.case.settings)
        started = time.process_time()  # others may use the machine
        calibration = deltafx.calibrate(
            dm, self.frames(self.case.calibrated), max_error=budget, metric=self.case.metric, method=method,
            target_speedup=None if searches_as_the_paper else self.case.target,
            postprocess=self.network.postprocess, progress=lambda what: None,
        )  # fmt: skip
        seconds = time.process_time() - started
        say.print(f"{self.name}: calibrated in {seconds:.0f} s of the processor: {calibration}")
        calibration.save(self.file(budget, "_greedy" if searches_as_the_paper else ""))
        more: dict[str, Any] = {"seconds_calibrating": seconds, "notes": list(calibration.notes)}
        held_out = calibration.verified
        if held_out is not None:
            more["held_out"] = {"error": held_out.error, "macs_ratio": held_out.macs_ratio, "budget": budget}
        what = "paper's greedy search" if searches_as_the_paper else "calibrated"
        self.measure(f"{what}, error up to {budget:g}", self.convert(threshold=calibration), **more)

    def frontier(self, budget: float) -> None:
        """What the calibration that was kept gives with all thresholds larger and smaller."""
        calibration = Calibration.load(self.file(budget))
        dm = self.convert(threshold=calibration)
        dm(self.shown[0])
        for scale in SCALES:
            thresholds = {path: Threshold(scale * value) for path, value in calibration.thresholds.items()}
            retune(dm, thresholds, calibration.norm, calibration.input_gate)
            self.measure(f"calibrated, error up to {budget:g}, thresholds times {scale:g}", dm)

    def file(self, budget: float, ending: str = "") -> Path:
        return self.calibrations / f"{self.name.replace(' ', '_')}_{budget:g}{ending}.json"

    def run(self, policies: str) -> None:
        if policies in (ALL, CALIBRATED):
            self.calibrate(self.case.budget)
        if policies in (ALL, CALIBRATED, FRONTIER):
            self.frontier(self.case.budget)
        if policies in (ALL, OTHERS):
            self.compare()
        if policies in (ALL, GREEDY) and self.case.greedy is not None:
            self.calibrate(self.case.greedy, "greedy")

    def compare(self) -> None:
        """What a user would do without calibration, or without deltafx."""
        self.paper(PAPER_THRESHOLDS)
        for mode in ("fast", "balanced", "exact"):
            self.measure(mode, self.convert(mode=mode))
        self.measure("exact behind the gate 'auto'", self.convert(input_gate=AUTO))
        for levels in SKIPPED:
            self.skip_frames(levels)


def main(
    data: Annotated[Path, typer.Option(help="a folder with vtest.avi and nanodet_g_576x768.onnx")] = Path("data"),
    cases: Annotated[str, typer.Option(help=f"some of: {', '.join(CASES)}; with commas between")] = ",".join(CASES),
    policies: Annotated[
        str, typer.Option(help="all, calibrated, frontier: of calibrations that are there, others, greedy")
    ] = "all",
    out: Annotated[Path, typer.Option(help="JSON; a table, a plot and the calibrations are written beside it")] = Path(
        "benchmarks/results/accuracy.json"
    ),
) -> None:
    """Every policy on every case; other results that are there already are kept."""
    rows: list[dict[str, Any]] = json.loads(out.read_text())["results"] if out.is_file() else []
    calibrations = out.parent / "calibrations"
    calibrations.mkdir(parents=True, exist_ok=True)

    found = {**surroundings(), "commit": "of each row, in the JSON"}
    commit = surroundings()["commit"]  # before results are written into the tree
    torch.set_num_threads(1)

    def keep(row: Row) -> None:
        rows[:] = [each for each in rows if (each["case"], each["policy"]) != (row.case, row.policy)]
        row.commit = commit
        rows.append(vars(row))
        results = {**found, "cores": 1, "results": rows}
        out.write_text(json.dumps(results, indent=1) + "\n")
        out.with_suffix(".md").write_text(table(results))
        plot(results, out.with_suffix(".png"))

    for name in cases.split(","):
        Bench(name, data, calibrations, keep).run(policies)


if __name__ == "__main__":
    typer.run(main)
