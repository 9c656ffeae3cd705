"""`deltafx run`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from deltafx.cli import common
from deltafx.networks import load_network

HELP = f"""Run a converted network over a video, a camera or a stream, and write a film of it if asked.

[bold]Examples[/bold]

  deltafx run street.mp4 --model centerface --out faces.mp4

  deltafx run 0 --model mobilenet_v2 --frames 500

  deltafx run rtsp://camera.local/stream --model centerface --mode fast --json

{common.EXIT_CODES}
"""


def run(
    video: Annotated[str, typer.Argument(help="a video file, a camera's number, or a stream's URL")],
    model: common.ModelOption = "centerface",
    mode: common.ModeOption = common.Mode.balanced,
    threshold: common.ThresholdOption = None,
    frames: common.FramesOption = None,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="an H.264 film: updated pixels glow, boxes are drawn")
    ] = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx
    from deltafx.picture import delta_panel, side_by_side
    from deltafx.playback import Figures, advance, means
    from deltafx.video import Video, VideoError, VideoWriter

    network = load_network(model, common.statistics(mean, std))
    deciding, how = common.deciding(mode, threshold)
    dm = deltafx.convert(network.model, preprocess=network.preprocess, **how)
    done: list[Figures] = []
    stopped: str | None = None
    with Video(video) as source, VideoWriter(out, source.rate) if out else nullcontext() as film:
        height, width = common.fitted(network, common.size_of(size, source))
        common.tell(network.note, source.note)
        with common.progress("frames", common.total_of(source, frames)) as count:
            try:
                for picture in source.frames(frames, (height, width)):
                    step = advance(dm, network, picture)
                    done.append(step.figures)
                    if film is not None:
                        film.write(side_by_side([delta_panel(picture, step, f"{network.name}, {deciding}")]))
                    count()
            except VideoError as error:
                stopped = str(error)
            except KeyboardInterrupt:
                if not done:
                    raise
                stopped = "interrupted"
    if not done:
        raise VideoError(stopped or f"{video}: no frame was read")
    result = {
        "network": network.name, "video": video, "mode": deciding, "size": [height, width], "stopped": stopped,
        **means(done), "film": str(out) if out else None,
    }  # fmt: skip
    if as_json:
        common.print_json(result)
    else:
        say(result)
    return common.ended(stopped)


def say(result: dict[str, Any]) -> None:
    height, width = result["size"]
    fewer = (
        "none of the MACs"
        if result["macs_ratio"] is None
        else f"{result['macs_ratio']:.1f} times fewer MACs than dense"
    )
    typer.echo(
        f"{result['frames']} frames of {width}x{height}: {result['ms']:.1f} ms a frame, {fewer}, "
        f"{result['update_rate']:.1%} of the pixels updated"
    )
    if result["film"]:
        typer.echo(f"film: {result['film']}")


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(run))
