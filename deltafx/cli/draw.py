"""`deltafx draw`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltafx.cli import common
from deltafx.cli.looking import look
from deltafx.views.draw import BY

HELP = f"""The rewritten graph as a picture, nested by module and coloured by what each node did in the last frame.

It needs pydot and Graphviz (pip install 'deltafx\\[draw]', apt install graphviz). A .dot file needs no Graphviz.

[bold]Examples[/bold]

  deltafx draw graph.svg --model mobilenet_v2

  deltafx draw times.png --model centerface --clip street.mp4 --by milliseconds --depth 2

{common.EXIT_CODES}
"""


def draw(
    out: Annotated[Path, typer.Argument(help="a .svg, .png, .pdf or .dot file")],
    model: common.ModelOption = "centerface",
    clip: common.ClipOption = None,
    mode: common.ModeOption = common.Mode.balanced,
    threshold: common.ThresholdOption = None,
    frames: common.FewFramesOption = 10,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    by: Annotated[
        str, typer.Option("--by", help=f"colour by {', '.join(BY)}", autocompletion=common.one_of(*BY))
    ] = "update_rate",
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, help="how many levels of modules are open; by default what fits")
    ] = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx
    from deltafx.views.draw import check

    check(out, by)  # before the network runs
    looked = look(model, clip, mode, threshold, frames, size, mean, std)
    common.made_room(out)
    deltafx.draw(looked.dm, out, by=by, depth=depth)
    result = {"network": looked.network.name, "clip": looked.clip, "mode": looked.mode, "by": by, "picture": str(out)}
    if as_json:
        common.print_json(result)
    else:
        typer.echo(f"picture: {out}")
    return common.ended(looked.stopped)


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(draw))
