"""What mkdocs writes by itself: pages of the benchmarks' JSON, of the commands, and of the operators."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs runs this file by itself

from benchmarks import cpu_table, gpu_table  # noqa: E402
from benchmarks.opponents import FLOAT32  # noqa: E402

RESULTS = ROOT / "benchmarks/results"


def on_files(files: Files, config: Any) -> Files:
    pages = {f"benchmarks/{name}.md": text for name, text in results().items()}
    pages["benchmarks/index.md"] = benchmarks()
    pages["command-line.md"] = command_line()
    pages["operators.md"] = operators()
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for path in written():
        for picture in sorted(path.with_suffix("").glob("*.png")):
            name = f"benchmarks/{path.stem}/{picture.name}"
            files.append(File.generated(config, name, content=picture.read_bytes()))
    return files


# ---------------------------------------------------------------------------------------------------------------------
# Benchmarks


def written() -> list[Path]:
    """Tables of the results that have a folder, with a JSON for each network and pictures."""
    return sorted(path for path in RESULTS.glob("*.md") if path.with_suffix("").is_dir())


def benchmarks() -> str:
    """The folder's own page, with links that lead somewhere in the site."""
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    lines = [f"* [{title_of(name)}]({name}.md)" for name in results()]
    return "\n".join([text, "\n## Results\n", *lines, ""])


def title_of(name: str) -> str:
    return name.replace("_", " ")


def results() -> dict[str, str]:
    """The text of a page by its name: of every JSON file, and of every folder with one for each case."""
    found = {path.stem: benchmark(path) for path in RESULTS.glob("*.json")}
    found |= {path.name: text for path in RESULTS.iterdir() if path.is_dir() and (text := of_folder(path))}
    return dict(sorted(found.items()))


def of_folder(folder: Path) -> str | None:
    """The table that the benchmark itself writes, made of the folder's files; None for a folder of something else."""
    keys = {key for path in folder.glob("*.json") for key in json.loads(path.read_text(encoding="utf-8"))}
    where = f"From `benchmarks/results/{folder.name}/*.json`.\n"
    if "case" in keys:
        head, _, rest = gpu_table.table(gpu_table.read(folder)).partition("\n")
        return f"{head}\n\n{where}{rest}"
    if "opponents" in keys:
        return f"# {title_of(folder.name)}\n\n{where}\n{cpu_table.tables(folder, FLOAT32)}"
    return None


def benchmark(path: Path) -> str:
    """One file of results: what it must be read with, and a table for each list of rows in it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    facts = {name: value for name, value in content.items() if not isinstance(value, (dict, list))}
    lines = [f"# {title_of(path.stem)}", "", f"From `benchmarks/results/{path.name}`.", ""]
    lines += [f"* {name}: {f'`{value}`' if name == 'command' else value}" for name, value in facts.items()]
    for name, value in content.items():
        rows = rows_of(value)
        if rows:
            lines += ["", f"## {name}", ""]
        if any(by_name(part) for row in rows for part in row.values()):
            for row in rows:
                lines += nested(row)
        elif rows:
            lines += table([flat(row) for row in rows])
    return "\n".join([*lines, ""])


def by_name(value: Any) -> bool:
    """Whether it has rows by their names, of the same columns each."""
    if not isinstance(value, dict) or len(value) < 2 or not all(isinstance(row, dict) for row in value.values()):
        return False
    return "median" not in value


def nested(row: dict[str, Any]) -> list[str]:
    """A row in which there are tables, with those after what it is of."""
    facts = {name: value for name, value in row.items() if not by_name(value)}
    lines = ["### " + ", ".join(f"{name} {value}" for name, value in flat(facts).items()), ""]
    for name, value in row.items():
        if by_name(value):
            lines += [*table([{name: key, **flat(part)} for key, part in value.items()]), ""]
    return lines


def rows_of(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value]
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def flat(row: dict[str, Any], before: str = "") -> dict[str, str]:
    """A row's cells by column: a median with its spread is one cell, what else is nested has a column for each part."""
    cells: dict[str, str] = {}
    for name, value in row.items():
        column = f"{before}{name}".replace("_", " ")
        if isinstance(value, dict) and "median" in value:
            low, high = (value.get("lower"), value.get("upper"))
            spread = "" if low is None else f" ({number(low)}..{number(high)})"
            cells[column] = f"{number(value['median'])}{spread}"
        elif isinstance(value, dict):
            cells |= flat(value, f"{column}: ")
        elif isinstance(value, list):
            cells[column] = "x".join(map(str, value)) if len(value) <= 4 else f"{len(value)} values"
        else:
            cells[column] = number(value)
    return cells


def number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def table(rows: list[dict[str, str]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if len(columns) > 14:  # wider than a page: a line for each cell
        return [line for row in rows for line in (*two_columns(row), "")]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return lines + [f"| {' | '.join(row.get(column, '') for column in columns)} |" for row in rows]


def two_columns(row: dict[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in row.items())]


# ---------------------------------------------------------------------------------------------------------------------
# Commands and operators


def command_line() -> str:
    """Every command's help, as its options are."""
    import typer

    from deltafx.cli import app

    group = typer.main.get_command(app)
    lines = [
        "# Command line", "", "Every command has `--help` with examples, and prints JSON with `--json`. "
        "`deltafx --install-completion` teaches your shell to complete commands, options and names of networks.", "",
    ]  # fmt: skip
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        text = (command.help or "").replace("[bold]", "**").replace("[/bold]", "**").replace("\\[", "[")
        lines += [f"## deltafx {name}", "", *examples(text), "", "| | |", "|---|---|"]
        lines += [option(each) for each in command.params if each.name != "help"]
        lines.append("")
    return "\n".join(lines)


def examples(text: str) -> list[str]:
    """The help's words, with its examples as code."""
    return [f"    {line.strip()}" if line.startswith("  deltafx") else line for line in text.strip().splitlines()]


def option(parameter: click.Parameter) -> str:
    argument = parameter.param_type_name == "argument"
    names = (parameter.metavar or str(parameter.name).upper(),) if argument else parameter.opts
    given = parameter.default() if callable(parameter.default) else parameter.default
    default = getattr(given, "value", given)
    shown = f" Default: `{default}`." if default not in (None, False, ()) and parameter.required is False else ""
    words = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    return f"| {', '.join(f'`{name}`' for name in names)} | {words}.{shown} |"


def operators() -> str:
    from deltafx.supported import supported_operators

    rows = [
        {
            "operator": family.name,
            "a change reaches": family.locality,
            "spelled": ", ".join(f"`{name}`" for name in family.spellings),
            "compiled kernel": "yes" if family.compiled else "",
        }
        for family in supported_operators()
    ]
    words = (
        "What has a delta form, from the operators' own lists; the same as `deltafx doctor --operators`. Everything "
        "else runs densely on current values: always correct, counted, and named in the report with its reason."
    )
    return "\n".join(["# Operators", "", words, "", *table(rows), ""])
