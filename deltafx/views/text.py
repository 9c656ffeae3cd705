"""Plain text, for terminals without colours, files and logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltafx.report import NodeReport, Report

HEAD = ("node", "operator", "kernel", "threshold", "updated", "mean", "MMACs", "dense", "state KiB", "ms")
SUBTREE_HEAD = ("module", "nodes", "MMACs", "mean", "dense", "state KiB", "ms")


def report_text(report: Report) -> str:
    lines = [table(head_of(report), [cells_of(report, node) for node in report.nodes]), "", *summary(report)]
    return "\n".join([*lines, *remarks(report)])


def subtrees_text(report: Report, depth: int | None = None) -> str:
    """The totals of the modules, as a table."""
    return table(SUBTREE_HEAD, subtree_cells(report, depth))


def head_of(report: Report) -> tuple[str, ...]:
    return HEAD if is_timed(report) else HEAD[:-1]


def cells_of(report: Report, node: NodeReport) -> tuple[str, ...]:
    cells = (
        node.path,
        shorten(node.operator, 44),
        node.kernel,
        number(node.threshold, "{:.3g}"),
        number(node.update_rate, "{:.1%}"),
        number(node.update_rate_mean, "{:.1%}"),
        number(node.macs, "{:.1f}", 1e-6),
        number(node.macs_dense, "{:.1f}", 1e-6),
        number(node.state_bytes, "{:.0f}", 1 / 1024),
        number(node.milliseconds, "{:.2f}"),
    )
    return cells if is_timed(report) else cells[:-1]


def subtree_cells(report: Report, depth: int | None) -> list[tuple[str, ...]]:
    """A line for each module, set in as deep as it stands."""
    return [
        (
            "  " * each.depth + (each.name or "all"),
            str(each.nodes),
            number(each.macs, "{:.1f}", 1e-6),
            number(each.macs_mean, "{:.1f}", 1e-6),
            number(each.macs_dense, "{:.1f}", 1e-6),
            number(each.state_bytes, "{:.0f}", 1 / 1024),
            number(each.milliseconds, "{:.2f}"),
        )
        for each in report.subtrees(depth)
    ]


def is_timed(report: Report) -> bool:
    return report.totals.get("milliseconds") is not None


def summary(report: Report) -> list[str]:
    """The totals, as sentences."""
    totals = report.totals
    parts = f" in {totals['graphs']} graphs" if totals["graphs"] != 1 or totals["eager_modules"] else ""
    outside = f", {totals['eager_modules']} modules outside of them" if totals["eager_modules"] else ""
    lines = [
        f"{totals['delta_nodes']} nodes in delta form, {totals['dense_nodes']} dense{parts}{outside}; backend "
        f"{report.backend}, payload {report.payload}, mode {report.mode}"
    ]
    if totals["macs_dense"] is not None:
        share = totals["macs_delta_form"] / totals["macs_dense"] if totals["macs_dense"] else 1.0
        lines.append(
            f"{totals['macs_dense'] / 1e6:.1f} MMACs a dense frame, {share:.1%} of them in delta form; last frame "
            f"computed {totals['macs'] / 1e6:.1f}, the mean of {report.frames} frames {totals['macs_mean'] / 1e6:.1f}"
        )
        lines.append(
            f"state {totals['state_bytes'] / 2**20:.1f} MiB for {report.streams} streams "
            f"(predicted {totals['predicted_state_bytes'] / 2**20:.1f})"
        )
    return lines


def remarks(report: Report) -> list[str]:
    """Why nodes are dense or have the reference kernel."""
    dense = [node for node in report.nodes if node.reason is not None]
    slow = [node for node in report.nodes if node.note is not None]
    return [
        *(f"dense: {node.path} ({node.operator}): {node.reason}" for node in dense),
        *(f"reference kernel: {node.path} ({node.operator}): {node.note}" for node in slow),
    ]


def number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text: names to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    textual = [not any(line[i][:1].isdigit() for line in rows) for i in range(len(head))]
    textual[0] = True

    def line(cells: tuple[str, ...]) -> str:
        pairs = zip(cells, widths, textual, strict=True)
        return "  ".join(cell.ljust(w) if left else cell.rjust(w) for cell, w, left in pairs).rstrip()

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *map(line, rows)])
