"""What `deltafx coverage` says in the end: totals by family, and the rows as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltafx.coverage import FAILED, MATCHES, PLUS, SKIPPED, TIMES, Row
from deltafx.coverage_models import FAMILIES

SLOWEST = 5

HEAD = (
    "network", "input", "result", "captured", "delta nodes", "islands", "eager", "MMACs", "per proposal",
    "in delta form", "computed", "error", "dense error", "boxes", "seconds",
)  # fmt: skip
SUMMARY_HEAD = ("family", "networks", "convert", "match", "skipped", "lowest share of MACs in delta form")


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """How many convert and match, and the lowest share of MACs in delta form, by family; the slowest to convert."""
    families = {}
    for family in FAMILIES:
        of_family = [row for row in rows if row.family == family]
        if not of_family:
            continue
        shares = [(row.share, row.name) for row in of_family if row.share is not None]
        lowest, name = min(shares, default=(None, None))
        families[family] = {**counts(of_family), "lowest_share": lowest, "lowest": name}
    timed = sorted((row for row in rows if row.seconds is not None), key=lambda row: -(row.seconds or 0))
    return {
        **counts(rows),
        "families": families,
        "slowest": [{"name": row.name, "seconds": row.seconds} for row in timed[:SLOWEST]],
    }


def counts(rows: Sequence[Row]) -> dict[str, int]:
    return {
        "networks": len(rows),
        "convert": sum(row.converted for row in rows),
        "match": sum(row.status == MATCHES for row in rows),
        "skipped": sum(row.status == SKIPPED for row in rows),
    }


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table, in the order of HEAD."""
    boxes = "-" if row.boxes is None else f"{row.boxes - (row.boxes_lost or 0)} of {row.boxes}"
    captured = {None: "-", 1: "whole"}.get(row.parts, f"{row.parts} parts")
    return (
        row.name, "x".join(map(str, row.shape)), row.status, captured, text(row.delta_nodes), text(row.islands),
        text(row.eager), text(row.macs and row.macs / 1e6, "{:.0f}"),
        text(row.per_proposal / row.macs if row.per_proposal and row.macs else None, "{:.0%}"),
        text(row.share, "{:.2%}"), text(row.computed, "{:.0%}"),
        text(max(row.errors, default=None), "{:.1e}"), text(max(row.errors_dense, default=None), "{:.1e}"), boxes,
        text(row.seconds, "{:.1f}"),
    )  # fmt: skip


def summary_cells(families: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the totals, in the order of SUMMARY_HEAD."""
    return [
        (
            family, *(str(each[count]) for count in ("networks", "convert", "match", "skipped")),
            "-" if each["lowest"] is None else f"{each['lowest_share']:.2%} ({each['lowest']})",
        )
        for family, each in families.items()
    ]  # fmt: skip


def text(value: float | None, form: str = "{}") -> str:
    return "-" if value is None else form.format(value)


def sentences(total: dict[str, Any]) -> list[str]:
    """The totals of `summary` in words."""
    tried = total["networks"] - total["skipped"]
    slow = ", ".join(f"{each['name']} {each['seconds']:.1f} s" for each in total["slowest"])
    lines = [f"{total['convert']} of {tried} networks convert, {total['match']} match the dense network."]
    lines += [f"{total['skipped']} were skipped."] if total["skipped"] else []
    return lines + ([f"Slowest to convert: {slow}."] if slow else [])


# ---------------------------------------------------------------------------------------------------------------------
# Markdown


INTRODUCTION = f"""# Networks that were tried

Each is converted with `deltafx.convert(model)`, whose threshold is 0, and shown four frames: noise, a changed disc,
the same again, another disc. Weights are random, scaled so that activations stay near 1; those of the zoo are real.

* Matches: in every frame the relative L2 error against the dense network in float64 is at most {TIMES} times the dense
  float32 network's own plus {PLUS:g}; a quantized network gives the same numbers as before. Errors here are the
  largest of the four frames.
* Of detectors the maps before the choice of boxes are compared, and "boxes" says how many of those that float64 finds
  the converted network finds too.
* "Per proposal" is the share of the MACs that a detector's second stage spends on what it found in the picture; it
  has no streams, runs as it is, and is left out of the share in delta form.
* "Computed" is the share of the MACs that the last frame took, in which a few per cent of the pixels had changed. These
  frames are so small that windows soon reach across them; on larger ones it is less.
* Seconds are those of the processor for `convert` and the first frame, in which buffers are planned and weights packed.

Made by `deltafx coverage --out docs/coverage.json`:
"""


def markdown(facts: dict[str, Any], rows: Sequence[Row]) -> str:
    """The whole page; `facts` are what a result must be read with, by name."""
    total = summary(rows)
    parts = [INTRODUCTION, "\n".join(f"* {name}: {fact}" for name, fact in facts.items()), "", *sentences(total), ""]
    parts += [grid(SUMMARY_HEAD, summary_cells(total["families"])), ""]
    for family in total["families"]:
        of_family = [row for row in rows if row.family == family]
        parts += [f"## {family}", "", grid(HEAD, [cells(row) for row in of_family]), ""]
    parts += section("What failed, differs or was skipped", problems(rows))
    parts += section("What is not in delta form, and why", reasons(rows))
    return "\n".join(parts).rstrip() + "\n"


def section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def problems(rows: Sequence[Row]) -> list[str]:
    order = {FAILED: 0, SKIPPED: 2}
    return [
        f"* {row.name} ({row.status}): {row.why}"
        for row in sorted(rows, key=lambda row: order.get(row.status, 1))
        if row.why is not None
    ]


def reasons(rows: Sequence[Row]) -> list[str]:
    """One line for an operator and a reason, with the networks in which it is met; those that cost most first."""
    met: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for row in rows:
        for each in row.reasons:
            share = each.macs / row.macs if row.macs else 0.0
            met.setdefault((each.operator, each.reason), []).append((share, f"{row.name} ({each.nodes})"))
    ordered = sorted(met.items(), key=lambda item: (-max(item[1])[0], -len(item[1])))
    return [
        f"* `{operator}`: {reason}. At most {max(places)[0]:.1%} of the MACs; nodes: "
        + ", ".join(name for _, name in places)
        for (operator, reason), places in ordered
    ]


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
