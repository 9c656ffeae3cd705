"""How time grows with the update rate and with the number of streams, drawn from the JSONs of `benchmarks.cpu`.

Run as `python -m benchmarks.cpu_scaling`; `benchmarks.cpu` draws it too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

FOLDER = Path("benchmarks/results/cpu_opponents")


def draw_scaling(folder: Path) -> None:
    """Writes `update_rate.png` and `streams.png` into the folder."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    networks = [each for each in results if "cases" in each and "everything changed" in each["cases"]]
    streams = [each for each in results if "streams" in each]
    if networks:
        draw_rates(networks, folder / "update_rate.png")
    if streams:
        draw_streams(streams, folder / "streams.png")


def draw_rates(results: list[dict[str, Any]], path: Path) -> None:
    """Time beside the share of the multiply-accumulates that was computed, and the line through both ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(results), 3.8), layout="constrained")
    for axes, result in zip(figure.subplots(1, len(results), squeeze=False)[0], results, strict=True):
        cases = {name: times for name, times in result["cases"].items() if "bfloat16" not in name}
        points = sorted(
            (100 * times["share"], times["median"], times["lower"], times["upper"]) for times in cases.values()
        )
        shares, medians, lower, upper = zip(*points, strict=True)
        spread = [
            [m - low for m, low in zip(medians, lower, strict=True)],
            [u - m for u, m in zip(upper, medians, strict=True)],
        ]
        axes.errorbar(shares, medians, yerr=spread, marker="o", label="deltafx")
        axes.plot([shares[0], shares[-1]], [medians[0], medians[-1]], linestyle=":", color="grey", label="linear")
        float32 = {name: times["median"] for name, times in result["opponents"].items() if "bf16" not in name}
        if float32:
            best = min(float32, key=lambda name: float32[name])
            axes.axhline(float32[best], color="black", linewidth=1, label=best)
        axes.set(
            title=result["network"], xlabel="MACs computed, %", ylabel="ms a frame", xlim=(0, None), ylim=(0, None)
        )
        axes.legend()
    figure.savefig(path, dpi=100)


def draw_streams(results: list[dict[str, Any]], path: Path) -> None:
    """Time of a batch beside its number of streams, in units of one stream."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axes = figure.subplots()
    largest = 1
    for result in results:
        counts = [int(count) for count in result["streams"]]
        medians = [times["median"] for times in result["streams"].values()]
        axes.plot(counts, [median / medians[0] for median in medians], marker="o", label=result["network"])
        largest = max(largest, *counts)
    axes.plot([1, largest], [1, largest], linestyle=":", color="grey", label="linear")
    axes.set(
        xlabel="streams in one batch, 5 % in blobs",
        ylabel="time, in units of one stream",
        xlim=(0, None),
        ylim=(0, None),
    )
    axes.legend()
    figure.savefig(path, dpi=100)


def main(folder: Annotated[Path, typer.Argument(help="with a JSON for each network")] = FOLDER) -> None:
    """Draw the scaling plots of `benchmarks.cpu`."""
    draw_scaling(folder)


if __name__ == "__main__":
    typer.run(main)
