"""`deltafx explore`."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Annotated

import typer

from deltafx.cli import common
from deltafx.cli.looking import look

HELP = f"""Files for Google's Model Explorer: the rewritten graph, nested by module, and what each node did in a frame.

It prints the command that opens them. It needs the package ai-edge-model-explorer (pip install 'deltafx\\[explore]').

[bold]Examples[/bold]

  deltafx explore out --model mobilenet_v2

  deltafx explore out --model centerface --clip street.mp4 --json

{common.EXIT_CODES}
"""


def explore(
    out: Annotated[Path, typer.Argument(help="the folder for the files")],
    model: common.ModelOption = "centerface",
    clip: common.ClipOption = None,
    mode: common.ModeOption = common.Mode.balanced,
    threshold: common.ThresholdOption = None,
    frames: common.FewFramesOption = 10,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx
    from deltafx.views.explore import check

    check()  # before the network runs
    looked = look(model, clip, mode, threshold, frames, size, mean, std)
    with contextlib.redirect_stdout(io.StringIO()):
        explored = deltafx.explore(looked.dm, out)
    if as_json:
        common.print_json(
            {
                "network": looked.network.name, "clip": looked.clip, "mode": looked.mode,
                "model": str(explored.model), "node_data": list(map(str, explored.node_data)),
                "command": explored.command,
            }
        )  # fmt: skip
    else:
        typer.echo(explored.command)
    return common.ended(looked.stopped)


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(explore))
