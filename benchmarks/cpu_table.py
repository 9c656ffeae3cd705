"""The tables of `benchmarks.cpu`, made anew from the JSON of every network in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# How many times faster than the best opponent in float32 it must be; `None` holds for the networks that are not named.
BARS: dict[str, dict[str | None, float]] = {
    "nothing changed": {"resnet50": 80, "mobilenet_v2": 15},
    "one 32x32 blob": {"resnet50": 25},
    "5% in blobs": {"resnet50": 6, "mobilenet_v2": 4},
    "everything changed": {None: 0.9},
}
FACTS = ("command", "date", "commit", "torch", "processor", "cores", "frame", "dtype", "isa", "dense_switch")


def ms(times: dict[str, Any]) -> str:
    return f"{times['median']:.2f} ({times['lower']:.2f}..{times['upper']:.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def best(result: dict[str, Any], names: Sequence[str]) -> tuple[str, float]:
    there = {name: times["median"] for name, times in result["opponents"].items() if name in names}
    return min(there.items(), key=lambda pair: pair[1]) if there else ("none", float("nan"))


def of_network(result: dict[str, Any], float32: Sequence[str]) -> list[str]:
    name, network = result["network"], result["network"].split()[0]
    fastest, least = best(result, float32)
    others = [f"{each}: {ms(times)}" for each, times in result["opponents"].items()]
    others += [f"{each}: missing ({reason})" for each, reason in result["missing"].items()]
    lines = [f"## {name}", "", f"Opponents, ms: {'; '.join(others)}. Best in float32: {fastest}.", ""]
    clip = "mean" in next(iter(result["cases"].values()))
    rows = []
    for case, times in result["cases"].items():
        row = [case, f"{times['share']:.1%}", ms(times), f"{least / times['median']:.2f}"]
        if clip:
            row += [f"{least / times['mean']:.2f}", f"{times['f1_with_hysteresis']:.3f}", f"{times['error']:.3f}"]
        else:
            bars = BARS.get(case, {})
            bar = bars.get(network, bars.get(None))
            met = bar is None or least / times["median"] >= bar
            row.append("" if bar is None else f"{bar:g}{'' if met else ' MISSED'}")
        rows.append(row)
    head = ["case", "MACs computed", "deltafx ms", "times faster"]
    more = ["of the mean", "F1 with hysteresis", "relative error"] if clip else ["asked for"]
    return [*lines, *table([*head, *more], rows), ""]


def tables(folder: Path, float32: Sequence[str]) -> str:
    """Markdown of what is in a folder; nothing where that is empty."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime)]
    if not results:
        return ""
    lines = [f"* {key}: {results[0][key]}" for key in FACTS] + [""]
    for result in results:
        lines += of_network(result, float32)
    return "\n".join(lines)


def write_tables(folder: Path, float32: Sequence[str]) -> None:
    """Writes `folder`.md."""
    text = tables(folder, float32)
    if text:
        folder.with_suffix(".md").write_text(text)
        print(text)
