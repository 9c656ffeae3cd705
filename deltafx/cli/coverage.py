"""`deltafx coverage`."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from deltafx.cli import common
from deltafx.plain_json import to_json

if TYPE_CHECKING:
    from deltafx.coverage import Row

HELP = """Convert every network of torchvision, and some of timm, effdet and the zoo: what is in delta form, what is not
and why, and whether the result is the dense network's.

Each runs four small frames in a process of its own. All of them take about half an hour on two cores, and 12 GiB.

[bold]Examples[/bold]

  deltafx coverage --filter resnet18

  deltafx coverage --filter 'vit_*' --filter detection --json

  deltafx coverage --out docs/coverage.json

Exit codes: 0 all match; 1 failed, with the reason; 2 wrong arguments; 3 some fail or differ; 130 interrupted, what was
done is kept.
"""


def coverage(
    wanted: Annotated[
        list[str] | None,
        typer.Option("--filter", "-f", help="a part of a name, a pattern as 'vit_*', or a family; may be repeated"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="a JSON file; a table with the suffix .md is written beside it"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="keep the rows that are in the file of --out")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="seconds for one network")] = 1800,
    as_json: common.JsonOption = False,
) -> int:
    from deltafx.coverage import MATCHES, SKIPPED, cover
    from deltafx.coverage_models import all_cases, chosen
    from deltafx.coverage_table import markdown, sentences, summary

    cases = all_cases() if not wanted else chosen(all_cases(), wanted)
    order = {case.name: place for place, case in enumerate(all_cases())}
    rows = kept(out) if resume else []
    cases = [case for case in cases if case.name not in {row.name for row in rows}]
    interrupted = False
    facts = surroundings()
    with common.progress("networks", len(cases)) as step:
        try:
            for row in cover(cases, timeout):
                rows = sorted([*rows, row], key=lambda row: order.get(row.name, -1))
                common.messages.print(line_of(row), markup=False, soft_wrap=True)
                if out is not None:  # after each, since a whole run takes long
                    write(out, result_of(facts, rows), markdown(facts, rows))
                step()
        except KeyboardInterrupt:
            interrupted = True
    if as_json:
        common.print_json(result_of(facts, rows))
    else:
        show(rows)
        typer.echo("\n".join(sentences(summary(rows))))
    if interrupted:
        return common.ended("interrupted")
    skipped = [row for row in rows if row.status == SKIPPED]
    if len(skipped) == len(rows):
        raise ImportError(f"nothing was tried: {skipped[0].why}")
    return 0 if all(row.status in (MATCHES, SKIPPED) for row in rows) else common.PARTIAL


def kept(out: Path | None) -> list[Row]:
    from deltafx.coverage import Row

    if out is None:
        raise ValueError("--resume goes on with the file that --out names")
    return [Row.from_dict(row) for row in json.loads(out.read_text())["rows"]] if out.exists() else []


def line_of(row: Row) -> str:
    return f"{row.name}: {row.status}{f', {row.why}' if row.why else ''}"


def surroundings() -> dict[str, Any]:
    """What the rows must be read with."""
    from deltafx.build_info import build_info

    info = build_info()
    facts = {name: info[name] for name in ("deltafx", "torch", "python", "platform")}
    for package in ("torchvision", "timm", "effdet"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    cpu = info["cpu"]
    isa = cpu["instruction_sets"][0] if isinstance(cpu, dict) else cpu
    return {**facts, "backend": info["auto"], "instruction set": isa}


def result_of(facts: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    from deltafx.coverage_table import summary

    return {**facts, "summary": summary(rows), "rows": [row.to_dict() for row in rows]}


def write(path: Path, result: dict[str, Any], page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(result))
    path.with_suffix(".md").write_text(page)


def show(rows: list[Row]) -> None:
    from deltafx.coverage_table import HEAD, SUMMARY_HEAD, cells, summary, summary_cells

    print_table(HEAD, [cells(row) for row in rows], without=("input", "eager", "boxes", "MMACs"))
    print_table(SUMMARY_HEAD, summary_cells(summary(rows)["families"]))


def print_table(head: Sequence[str], lines: Sequence[Sequence[str]], without: Sequence[str] = ()) -> None:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in head:
        if column not in without:
            shown.add_column(column, justify="left" if column == head[0] else "right", no_wrap=column == head[0])
    for line in lines:
        shown.add_row(*(cell for column, cell in zip(head, line, strict=True) if column not in without))
    console = Console(highlight=False)
    console.width = max(console.width, 120)  # in a narrower one most columns would be gone
    console.print(shown)


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(coverage))
