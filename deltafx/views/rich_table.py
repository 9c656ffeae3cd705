"""The report as a coloured table, for terminals."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from deltafx.views import text
from deltafx.views.colours import colour_of

if TYPE_CHECKING:
    from deltafx.report import NodeReport, Report

LEFT = ("node", "operator", "kernel")


def show(report: Report) -> None:
    """Print a report: coloured where standard output is a terminal and rich is installed, else as plain text."""
    try:
        from rich.console import Console
    except ImportError:
        print(report)
        return
    console = Console(highlight=False)
    if console.is_terminal and sys.stdout.isatty():
        console.print(rich_report(report))
    else:
        print(report)


def rich_report(report: Report) -> Any:
    """The same cells as the plain text, coloured: update rates by how high they are, dense nodes and eager modules."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    head = text.head_of(report)
    for column in head:
        left = column in LEFT
        shown.add_column(column, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for node in report.nodes:
        cells = [Text(cell) for cell in text.cells_of(report, node)]
        for index, rate in ((head.index("updated"), node.update_rate), (head.index("mean"), node.update_rate_mean)):
            cells[index].stylize("" if rate is None else f"on {colour_of(rate)} #101010")
        cells[head.index("kernel")].stylize(kernel_style(node))
        shown.add_row(*cells)
    lines = [Text(line, style="bold") for line in text.summary(report)]
    return Group(shown, *lines, *(Text(line, style="yellow") for line in text.remarks(report)))


def kernel_style(node: NodeReport) -> str:
    if node.reason is not None:
        return "bold red"
    return "yellow" if node.note is not None else ""


def rich_subtrees(report: Report, depth: int | None = None) -> Any:
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in text.SUBTREE_HEAD:
        shown.add_column(column, justify="left" if column == text.SUBTREE_HEAD[0] else "right", no_wrap=True)
    for cells in text.subtree_cells(report, depth):
        shown.add_row(*cells)
    return shown


def rich_hints(report: Report) -> Any:
    from rich.panel import Panel
    from rich.text import Text

    lines = Text("\n").join(Text(f"• {hint.text}") for hint in report.hints())
    return Panel(lines, title="what to do next", title_align="left", border_style="yellow")
