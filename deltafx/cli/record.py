"""`deltafx record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltafx.cli import common
from deltafx.cli.looking import pictures
from deltafx.networks import load_network

HELP = f"""A film of what a converted network computes: the frame, what was updated, and plots of how much and how long.

[bold]Examples[/bold]

  deltafx record faces.mp4 --model centerface --clip street.mp4

  deltafx record out.mp4 --model mobilenet_v2 --mode fast --frames 200

{common.EXIT_CODES}
"""


def record(
    out: Annotated[Path, typer.Argument(help="the film, an .mp4 file")],
    model: common.ModelOption = "centerface",
    clip: common.ClipOption = None,
    mode: common.ModeOption = common.Mode.balanced,
    threshold: common.ThresholdOption = None,
    frames: common.FewFramesOption = 100,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx
    from deltafx.converted import silence
    from deltafx.playback import Figures, means
    from deltafx.video import VideoError

    network = load_network(model, common.statistics(mean, std))
    deciding, how = common.deciding(mode, threshold)
    dm = deltafx.convert(network.model, preprocess=network.preprocess, **how)
    silence(dm)  # the film shows it
    done: list[Figures] = []
    stopped: str | None = None
    with pictures(network, clip, frames, size) as shown, common.progress("frames", shown.total) as step:

        def count(figures: Figures) -> None:
            done.append(figures)
            step()

        try:
            deltafx.record(
                dm, shown.frames, out, postprocess=network.postprocess, rate=shown.rate,
                name=f"{network.name}, {deciding}", progress=count,
            )  # fmt: skip
        except VideoError as error:
            stopped = str(error)
        except KeyboardInterrupt:
            stopped = "interrupted"
    if not done:
        raise VideoError(stopped or f"{shown.name}: no frame was read")
    result = {
        "network": network.name, "clip": shown.name, "mode": deciding, "size": shown.size, "stopped": stopped,
        **means(done), "film": str(out),
    }  # fmt: skip
    if as_json:
        common.print_json(result)
    else:
        typer.echo(f"{result['frames']} frames, {result['ms']:.1f} ms a frame\nfilm: {out}")
    return common.ended(stopped)


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(record))
