"""The tables of `benchmarks.cpu`, made anew from the JSON of every network in its folder.

`python -m benchmarks.cpu_table` writes the one in README.md, between its two marks.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

# How many times faster than the best opponent in float32 it must be; `None` holds for the networks that are not named.
BARS: dict[str, dict[str | None, float]] = {
    "nothing changed": {"resnet50": 80, "mobilenet_v2": 15},
    "one 32x32 blob": {"resnet50": 25},
    "5% in blobs": {"resnet50": 6, "mobilenet_v2": 4},
    "everything changed": {None: 0.9},
}
ORDER = ("resnet50", "mobilenet_v2", "nanodet")  # first
FACTS = ("command", "date", "commit", "torch", "processor", "cores", "frame", "dtype", "isa", "dense_switch")


def ms(times: dict[str, Any]) -> str:
    return f"{times['median']:.2f} ({times['lower']:.2f}..{times['upper']:.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def best(result: dict[str, Any], names: Sequence[str]) -> tuple[str, float]:
    there = {name: times["median"] for name, times in result["opponents"].items() if name in names}
    return min(there.items(), key=lambda pair: pair[1]) if there else ("none", float("nan"))


def of_streams(result: dict[str, Any]) -> list[str]:
    """Against as many calls with one stream."""
    one = result["streams"]["1"]["median"]
    rows = [
        [
            count,
            f"{times['share']:.1%}",
            ms(times),
            f"{times['median'] / int(count):.2f}",
            f"{int(count) * one / times['median']:.2f}",
        ]
        for count, times in result["streams"].items()
    ]
    head = ["streams", "MACs computed", "deltafx ms", "ms a stream", "times faster than one by one"]
    return [f"## {result['network']}, {result['frame']}, 5 % in blobs", "", *table(head, rows), ""]


def of_network(result: dict[str, Any], float32: Sequence[str]) -> list[str]:
    if "streams" in result:
        return of_streams(result)
    name, network = result["network"], result["network"].split()[0]
    fastest, least32 = best(result, float32)
    fastest16, least16 = best(result, [each for each in result["opponents"] if each not in float32])
    others = [f"{each}: {ms(times)}" for each, times in result["opponents"].items()]
    others += [f"{each}: missing ({reason})" for each, reason in result["missing"].items()]
    lines = [
        f"## {name}",
        "",
        f"Opponents, ms: {'; '.join(others)}. Best in float32: {fastest}; bfloat16 is held against {fastest16}.",
        "",
    ]
    clip = "mean" in next(iter(result["cases"].values()))
    rows = []
    for case, times in result["cases"].items():
        least = least16 if case.endswith("bfloat16") else least32
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
    pictures = [f"![{path.stem.replace('_', ' ')}]({folder.name}/{path.name})" for path in sorted(folder.glob("*.png"))]
    return "\n".join([*lines, *pictures, ""])


def write_tables(folder: Path, float32: Sequence[str]) -> None:
    """Writes `folder`.md."""
    text = tables(folder, float32)
    if text:
        folder.with_suffix(".md").write_text(text)
        print(text)


# ---------------------------------------------------------------------------------------------------------------------
# README.md

FOLDER = Path("benchmarks/results/cpu_opponents")
START, END = "<!-- from benchmarks/results/cpu_opponents -->", "<!-- end -->"
SHOWN = ("5% in blobs", "one 32x32 blob", "nothing changed", "everything changed")


def for_readme(folder: Path, float32: Sequence[str]) -> list[str]:
    """How many times faster than the best opponent in float32, case by case and network by network."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = {each["network"]: each for each in results if "everything changed" in each.get("cases", {})}
    if not found:
        raise SystemExit(f"{folder}: there are no results; run `python -m benchmarks.cpu` first")
    networks = [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]
    rows = [["best opponent, ms"]]
    rows[0] += ["{} {:.1f}".format(*best(found[name], float32)) for name in networks]
    for case in SHOWN:
        times = [best(found[name], float32)[1] / found[name]["cases"][case]["median"] for name in networks]
        rows.append([case, *(f"{each:.0f}x" if each >= 10 else f"{each:.2g}x" for each in times)])
    facts = found[networks[0]]
    about = (
        f"How many times faster networks run than the best of {', '.join(float32)} when the share of updated pixels is "
        f"prescribed (`make bench`: {facts['frame']}, batch 1, {facts['cores']} threads, float32; [all "
        f"figures]({folder}.md), [how they are taken](benchmarks/README.md)):"
    )
    return [
        *textwrap.wrap(about, 140, break_long_words=False, break_on_hyphens=False),
        "",
        *table(["", *networks], rows),
    ]


def main(readme: Path = Path("README.md"), folder: Path = FOLDER) -> None:
    """Write the table of README.md anew from the JSONs."""
    from benchmarks.opponents import FLOAT32

    text = readme.read_text(encoding="utf-8")
    if text.count(START) != 1 or END not in text.split(START)[1]:
        raise SystemExit(f"{readme}: one {START} and an {END} after it are needed")
    before, rest = text.split(START)
    after = rest.split(END, 1)[1]
    lines = [START, "", *for_readme(folder, FLOAT32), "", END]
    readme.write_text(before + "\n".join(lines) + after, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
