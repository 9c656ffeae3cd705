"""The table and the plot of `benchmarks.accuracy`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accuracy_cases import CASES

# How a policy begins, and how it is drawn: in one colour in all panels. What begins with none of these is a mode.
KINDS = {"calibrated": "o-", "paper's rule": "s--", "paper's greedy": "D", "skip": "x:", "": "^"}
COLUMNS = 4  # panels beside each other


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


def table(results: dict[str, Any]) -> str:
    lines = [f"* {key}: {value}" for key, value in results.items() if key != "results"]
    lines += ["* ms: of the processor, one thread, the median of frames (where frames are skipped, the mean)"]
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
        "| case | policy | accepted | on the frames held out | on those measured | of what was accepted |",
        "|---" * 6 + "|",
    ]
    for name in CASES:
        rows = [Row(**row) for row in results["results"] if row["case"] == name and row["held_out"]]
        for row in rows:
            assert row.held_out is not None
            budget, error = row.held_out["budget"], error_of(row)
            held_out = f"{row.held_out['error']:.4f}"
            lines.append(
                f"| {name} | {row.policy} | {budget:g} | {held_out} | {error:.4f} | {error / budget:.2f} times |"
            )
    return lines


def plot(results: dict[str, Any], path: Path) -> None:
    """MACs against the error, for each case: further to the right and lower is better."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in CASES if any(row["case"] == name for row in results["results"])]
    lines = math.ceil(len(names) / COLUMNS)
    figure, axes = pyplot.subplots(lines, COLUMNS, figsize=(5 * COLUMNS, 4 * lines), squeeze=False)
    for spare in axes.flat[len(names) :]:
        spare.set_visible(False)
    for name, axis in zip(names, axes.flat):
        rows = [Row(**row) for row in results["results"] if row["case"] == name]
        left = rows
        for number, (kind, style) in enumerate(KINDS.items()):
            some = sorted((row for row in left if row.policy.startswith(kind)), key=lambda row: row.macs_ratio)
            left = [row for row in left if row not in some]
            if some:
                errors = [error_of(row) for row in some]
                label = kind or "modes"
                axis.plot([row.macs_ratio for row in some], errors, style, color=f"C{number}", label=label)
        axis.set_xscale("log")
        axis.set_xlabel("times fewer multiply-accumulates")
        axis.set_ylabel("error")
        axis.set_title(name)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def error_of(row: Row) -> float:
    """In the measure of the case's metric, as a calibration counts it."""
    for name in ("f1_with_hysteresis", "miou"):
        if name in row.values:
            return 1 - row.values[name]
    if "psnr" in row.values:
        return 10 ** (-row.values["psnr"] / 20)
    return row.values["relative"]
