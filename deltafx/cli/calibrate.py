"""`deltafx calibrate`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deltafx.calibrate import METHODS
from deltafx.cli import common
from deltafx.metrics import METRICS
from deltafx.networks import load_network

HELP = f"""Finds thresholds that save most within an error, on a video of your camera; writes a file for `convert`.

[bold]Examples[/bold]

  deltafx calibrate street.mp4 --model centerface --metric detection --max-error 0.02 -o street.json

  deltafx calibrate street.mp4 --model mobilenet_v2 --target-speedup 8 --frames 150 -o street.json

In Python: deltafx.convert(model, threshold="street.json"). The last third of the frames verifies what was found.

{common.EXIT_CODES}
"""

FRAMES = 200


def calibrate(
    video: Annotated[str, typer.Argument(help="a video file")],
    output: Annotated[str, typer.Option("--output", "-o", help="the file to write, JSON")],
    model: common.ModelOption = "centerface",
    metric: Annotated[
        str, typer.Option("--metric", help=", ".join(METRICS), autocompletion=common.one_of(*METRICS))
    ] = "relative",
    max_error: Annotated[float | None, typer.Option("--max-error", help="in the metric's measure; 0 is none")] = None,
    target_speedup: Annotated[float | None, typer.Option("--target-speedup", help="times fewer MACs")] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method", help="sensitivity, or greedy: DeltaCNN's search", autocompletion=common.one_of(*METHODS)
        ),
    ] = "sensitivity",
    refresh_every: Annotated[
        int | None,
        typer.Option("--refresh-every", min=1, help="every n-th frame in full, not what was touched"),
    ] = None,
    frames: Annotated[int, typer.Option("--frames", "-n", min=6, help="how many, from the start")] = FRAMES,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx
    from deltafx.settings import MODES
    from deltafx.video import Video

    network = load_network(model, common.statistics(mean, std))
    dm = deltafx.convert(
        network.model, preprocess=network.preprocess, refresh_every=refresh_every,
        refresh_touched=MODES["balanced"].refresh_touched if refresh_every is None else None,
    )  # fmt: skip
    with Video(video) as source:
        common.tell(network.note, source.note)
        shown = list(source.frames(frames, common.fitted(network, common.size_of(size, source))))
    found = deltafx.calibrate(
        dm, shown, max_error=max_error, target_speedup=target_speedup, metric=metric,
        postprocess=network.postprocess, method=method,
    )  # fmt: skip
    found.save(output)
    if as_json:
        common.print_json({"network": network.name, "video": video, "output": output, **found.to_dict()})
        return 0
    table = Table(title=f"{network.name} on {video}: what was measured on the way")
    for column in ("scale", "fewer MACs", f"error ({found.metric})"):
        table.add_column(column, justify="right")
    for each in found.frontier:
        table.add_row(f"{each.scale:.3f}", f"{each.macs_ratio:.1f} times", f"{each.error:.4f}")
    Console().print(table)
    typer.echo(f"{found}\nwritten to {output}")
    return 0


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(calibrate))
