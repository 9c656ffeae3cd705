"""The table of the GPU benchmark, and its plots, from the folder of its cases.

python -m benchmarks.gpu_table benchmarks/results/cuda
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = (
    "", "p50 ms", "p99 ms", "times the best dense", "MACs computed", "distance to floor", "TFLOP/s", "of peak", "GB/s",
    "of peak", "launches",
)  # fmt: skip
WORDS = """p50 and p99 are of whole calls. "Distance to floor" is the time over the best dense execution's times the
share of the MACs: 1 is a network that pays for what it computes and for nothing else. TFLOP/s counts the computed MACs
twice, GB/s what a frame must move at least: weights of what computed anything, and each computed pixel's inputs,
comparison and result."""

# What of a case's time is none of the measuring.
STAGES = {"loading": "load_seconds", "dense forms": "dense_seconds", "conversion": "convert_seconds"}


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def figure(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def line(label: str, found: dict[str, Any]) -> str:
    cells = (
        label, figure(found["p50"]), figure(found["p99"]), figure(found["times_faster"]), share(found["share"]),
        figure(found.get("distance_to_floor"), 1), figure(found["tflops"], 1), share(found.get("of_peak_tflops")),
        figure(found["gbps"], 0), share(found.get("of_peak_gbps")), str(found.get("launches") or ""),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def section(result: dict[str, Any]) -> list[str]:
    network, batch, size, *_ = result["case"].split(":")
    best = min(times["p50"] for times in result["dense"].values())
    what = f", frames of {result['clip']}" if "clip" in result else ""
    lines = ["", f"## {network}, batch {batch}, {size}, {result['dtype']}{what}", ""]
    lines += [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for label, times in result["dense"].items():
        mark = " (best)" if times["p50"] == best else ""
        cells = (f"dense, {label}{mark}", figure(times["p50"]), figure(times["p99"]), *[""] * (len(HEAD) - 3))
        lines.append(f"| {' | '.join(cells)} |")
    lines += [line(label, found) for label, found in result["converted"].items()]
    told = [f"State {result['state_bytes'] / 2**20:,.0f} MiB."]
    if "output_bytes" in result:
        told[0] = (
            f"{told[0][:-1]}, {result['state_bytes'] / result['output_bytes']:.2f} times the outputs of all nodes."
        )
    if "cut" in result:
        cut = result["cut"]["p50"]
        told.append(f"The frame after a cut: {cut:.2f} ms, {cut / best:.2f} times the best dense.")
    if "relative_difference" in result:
        told.append(f"The first frame differs from the dense one's by {result['relative_difference']:.1e}.")
    for label, found in result["converted"].items():
        if "gate" in found:
            rate, error = found["update_rate"], found["relative_error"]
            told.append(f"{label}: {rate:.1%} of the input updated, relative error {error:.1e}, gate {found['gate']}.")
    if result.get("not_compiled"):
        told.append(f"Without compiled kernels: {', '.join(result['not_compiled'][:5])}.")
    for name, reason in result.get("left_out", {}).items():
        told.append(f"Left out of the dense forms: {name} ({reason}).")
    if result.get("note"):
        told.append(f"{result['note'][0].upper()}{result['note'][1:]}.")
    return [*lines, "", " ".join(told)]


def brief(result: dict[str, Any]) -> str:
    """One line, to be read while others are measured."""
    best = min(result["dense"], key=lambda name: result["dense"][name]["p50"])
    rates = ", ".join(f"{label} {found['times_faster']:.2f}" for label, found in result["converted"].items())
    told = f"{result['case']}: dense {result['dense'][best]['p50']:.2f} ms ({best}); times as fast: {rates}"
    parts = [f"{part} {result[key]:.0f}" for part, key in STAGES.items() if key in result]
    return f"{told}; measured in {result['seconds']:.0f} s ({', '.join(parts)})"


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    runs: dict[str, list[str]] = {}
    for x in results:
        runs.setdefault(f"{x['device']}, PyTorch {x['torch']}, commit {x['commit']}", []).append(x["case"])
    facts = [f"* {run}: `python -m benchmarks.gpu --cases {' '.join(cases)}`" for run, cases in sorted(runs.items())]
    lines = ["# The CUDA backend", "", *facts, "", WORDS]
    for result in results:
        lines += section(result)
    return "\n".join(lines) + "\n"


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """How many times the best dense execution, over the share of the multiply-accumulates; a line for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown, axes = plt.subplots(figsize=(9, 8), layout="constrained")
    found = [each for each in results if "clip" not in each]
    limits = [0.002, 1.0]
    axes.plot(limits, [1 / limits[0], 1], color="grey", linestyle=":", label="pays for what it computes alone")
    axes.axhline(1, color="grey", linewidth=1)
    for number, result in enumerate(found):
        points = [(x["share"], x["times_faster"]) for x in result["converted"].values() if x["share"] > 0]
        network, batch, size, *_ = result["case"].split(":")
        axes.plot(
            *zip(*sorted(points), strict=True), marker="osD^vP*X"[number // 10 % 8], markersize=4,
            label=f"{network}, batch {batch}, {size}, {result['dtype']}",
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="share of the multiply-accumulates computed",
        ylabel="times faster than the best dense execution", ylim=(0.1, 20), title="Forced masks",
    )  # fmt: skip
    shown.legend(fontsize=7, loc="outside lower center", ncols=3)
    axes.grid(which="both", alpha=0.25)
    shown.savefig(path, dpi=130)
    plt.close(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    results = read(folder)
    folder.with_suffix(".md").write_text(table(results))
    plot(results, folder.with_suffix(".png"))


if __name__ == "__main__":
    main()
