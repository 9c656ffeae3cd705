"""`deltafx html`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltafx.cli import common
from deltafx.cli.looking import pictures
from deltafx.networks import load_network

HELP = f"""A page about a converted network that needs no network: figures and charts against the dense one, where it
computes, the zoomable graph, every node, and what the compiler's passes did.

[bold]Examples[/bold]

  deltafx html report.html --model mobilenet_v2

  deltafx html report.html --model centerface --clip street.mp4 --mode fast --frames 100

{common.EXIT_CODES}
"""


def html(
    out: Annotated[Path, typer.Argument(help="the page, an .html file")],
    model: common.ModelOption = "centerface",
    clip: common.ClipOption = None,
    mode: common.ModeOption = common.Mode.balanced,
    threshold: common.ThresholdOption = None,
    frames: common.FewFramesOption = 50,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx
    from deltafx.html import measured_page

    network = load_network(model, common.statistics(mean, std))
    deciding, how = common.deciding(mode, threshold)
    dm = deltafx.convert(network.model, preprocess=network.preprocess, options={"profile": True}, **how)
    common.made_room(out)
    with pictures(network, clip, frames, size) as shown, common.progress("frames", shown.total) as step:
        done = measured_page(network, dm, out, shown.frames, shown.name, lambda frame: step())
    if as_json:
        common.print_json({**done.result, "report": done.reports[deciding].to_dict(), "page": str(out)})
    else:
        typer.echo(f"page: {out}")
    return common.ended(done.stopped)


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(html))
