"""`deltafx estimate`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deltafx.cli import common
from deltafx.networks import load_network

HELP = f"""Whether it will pay on your camera: predicted MACs, error and speed on this machine, from samples of a video.

[bold]Examples[/bold]

  deltafx estimate street.mp4 --model centerface

  deltafx estimate street.mp4 --model timm:mobilenetv3_large_100 --json

{common.EXIT_CODES}
"""


def estimate(
    video: Annotated[str, typer.Argument(help="a video file")],
    model: common.ModelOption = "centerface",
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx
    from deltafx.video import Video

    network = load_network(model, common.statistics(mean, std))
    with Video(video) as source:
        fitted = common.fitted(network, common.size_of(size, source))
        common.tell(network.note, source.note)
    with common.progress("samples", None) as step:
        result = deltafx.estimate(network.model, video, preprocess=network.preprocess, size=fitted, progress=step)
    if as_json:
        common.print_json({"network": network.name, "video": video, **result.to_dict()})
        return 0
    shown = Table(title=f"{network.name} on {video}, {fitted[1]}x{fitted[0]}, {result.frames} frames of it")
    shown.add_column("")
    for column in ("pixels updated", "fewer MACs", "ms a frame", "times faster", "relative error"):
        shown.add_column(column, justify="right")
    shown.add_row("dense", "", "", f"{result.ms_dense:.1f}", "", "")
    for mode in result.modes:
        ratio = "all" if mode.macs_ratio is None else f"{mode.macs_ratio:.1f} times"
        shown.add_row(
            mode.mode, f"{mode.update_rate:.1%}", ratio, f"{mode.ms:.1f}", f"{mode.speed_up:.1f}",
            f"{mode.relative_error:.1e}",
        )  # fmt: skip
    Console().print(shown)
    typer.echo(result.verdict)
    return 0


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(estimate))
