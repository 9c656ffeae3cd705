"""The report as a coloured table, for terminals."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from deltafx.views import text
from deltafx.views.colours import colour_of

if TYPE_CHECKING:
    from deltafx.report import NodeReport, Report

LEFT = ("node", "operator", "kernel")
# What a narrow terminal goes without, the first of these first.
LEAST = ("threshold", "state KiB", "kernel", "mean", "dense", "operator")
GAP = 2  # columns of characters between columns


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
    """The same cells as the plain text, coloured: update rates by how high they are, dense nodes and eager modules.

    In a terminal that is too narrow for all columns the least important are left out.
    """
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

    class Fitted:
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            yield nodes_table(report, options.max_width)
            yield from (Text(line, style="bold") for line in text.summary(report))
            yield from (Text(line, style="yellow") for line in text.remarks(report))

    return Fitted()


def nodes_table(report: Report, width: int) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    head = text.head_of(report)
    rows = [text.cells_of(report, node) for node in report.nodes]
    columns = fitting(head, rows, width)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        left = column in LEFT
        shown.add_column(column, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for node, row in zip(report.nodes, rows, strict=True):
        cells = {column: Text(cell) for column, cell in zip(head, row, strict=True)}
        for column, rate in (("updated", node.update_rate), ("mean", node.update_rate_mean)):
            cells[column].stylize("" if rate is None else f"on {colour_of(rate)} #101010")
        cells["kernel"].stylize(kernel_style(node))
        if "kernel" not in columns:
            cells["node"].stylize(kernel_style(node))
        shown.add_row(*(cells[column] for column in columns))
    return shown


def fitting(head: tuple[str, ...], rows: list[tuple[str, ...]], width: int) -> list[str]:
    """The columns that have room in so many characters."""
    widths = {name: max(map(len, (name, *(row[i] for row in rows)))) + GAP for i, name in enumerate(head)}
    kept = list(head)
    for name in LEAST:
        if sum(widths[each] for each in kept) <= width:
            break
        kept.remove(name)
    return kept


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
