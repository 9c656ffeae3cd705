"""`deltafx inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from deltafx.cli import common
from deltafx.cli.looking import look
from deltafx.errors import unknown_name

HELP = f"""What becomes of a network: every node, what it computed in a frame and how long that took, and what to do.

It is shown a few frames of a clip, or of a made-up scene.

[bold]Examples[/bold]

  deltafx inspect mobilenet_v2

  deltafx inspect centerface --clip street.mp4 --mode fast --modules

  deltafx inspect mynet.py:build --history --csv nodes.csv

  deltafx inspect mobilenet_v2 --pass fuse_pointwise

{common.EXIT_CODES}
"""


def passes_like(start: str) -> list[str]:
    from deltafx.passes import PASSES

    return [each.__name__ for each in PASSES if each.__name__.startswith(start)]


def inspect(
    model: common.ModelArgument,
    clip: common.ClipOption = None,
    mode: common.ModeOption = common.Mode.balanced,
    threshold: common.ThresholdOption = None,
    frames: common.FewFramesOption = 10,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    modules: Annotated[bool, typer.Option("--modules", help="totals of the modules instead of every node")] = False,
    depth: Annotated[int | None, typer.Option("--depth", min=0, help="of the modules, how many levels")] = None,
    history: Annotated[
        bool, typer.Option("--history", help="the dense graph beside the rewritten one, and what each pass did")
    ] = False,
    one_pass: Annotated[
        str | None,
        typer.Option("--pass", metavar="NAME", help="what one pass did, line by line", autocompletion=passes_like),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="also write the nodes as comma-separated values")] = None,
    graphml: Annotated[Path | None, typer.Option("--graphml", help="also write the graph as GraphML")] = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx

    if one_pass is not None and one_pass not in passes_like(""):
        raise ValueError(unknown_name("pass", one_pass, passes_like("")))
    looked = look(model, clip, mode, threshold, frames, size, mean, std)
    report = deltafx.report(looked.dm)
    if csv is not None:
        report.to_csv(csv)
    if graphml is not None:
        deltafx.to_graphml(report, graphml)
    histories = deltafx.history(looked.dm) if history or one_pass else {}
    if as_json:
        common.print_json(
            {
                "network": looked.network.name, "clip": looked.clip, "size": looked.size, "stopped": looked.stopped,
                **report.to_dict(), "subtrees": [each.__dict__ for each in report.subtrees(depth)],
                "hints": [each.__dict__ for each in report.hints()],
                "history": {path: each.to_dict() for path, each in histories.items()},
            }
        )  # fmt: skip
        return common.ended(looked.stopped)
    for path, each in histories.items():
        typer.echo("\n".join([*([path] if path else []), str(each[one_pass] if one_pass else each), ""]))
    show(report, modules, depth)
    return common.ended(looked.stopped)


def show(report: Any, modules: bool, depth: int | None) -> None:
    from deltafx.views.rich_table import rich_hints, rich_subtrees
    from deltafx.views.text import subtrees_text

    console = Console(highlight=False)
    if not modules:
        report.show()
    elif console.is_terminal:
        console.print(rich_subtrees(report, depth))
    else:
        typer.echo(subtrees_text(report, depth))
    if console.is_terminal:
        console.print(rich_hints(report))
    else:
        typer.echo("\nwhat to do next:\n" + "\n".join(f"* {hint.text}" for hint in report.hints()))


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(inspect))
