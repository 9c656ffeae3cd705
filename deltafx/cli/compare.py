"""`deltafx compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from deltafx.cli import common
from deltafx.networks import load_network

HELP = f"""The converted network beside the dense one, frame by frame: error, milliseconds, multiply-accumulates.

[bold]Examples[/bold]

  deltafx compare street.mp4 --model mobilenet_v2 --frames 50

  deltafx compare street.mp4 --model centerface --mode fast --json > street.json

{common.EXIT_CODES}
"""


def compare(
    video: Annotated[str, typer.Argument(help="a video file, a camera's number, or a stream's URL")],
    model: common.ModelOption = "centerface",
    mode: common.ModeOption = common.Mode.balanced,
    threshold: common.ThresholdOption = None,
    frames: common.FramesOption = None,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx
    from deltafx.video import Video, VideoError

    network = load_network(model, common.statistics(mean, std))
    deciding, how = common.deciding(mode, threshold)
    dm = deltafx.convert(network.model, preprocess=network.preprocess, **how)
    stopped: list[str] = []

    def pictures(source: Video, step):  # what can be read of the video, and why no more
        try:
            for picture in source.frames(frames, common.fitted(network, common.size_of(size, source))):
                yield picture
                step()
        except VideoError as error:
            stopped.append(str(error))

    with Video(video) as source:
        common.tell(network.note, source.note)
        with common.progress("frames", common.total_of(source, frames)) as step:
            result = deltafx.compare(network.model, dm, pictures(source, step))
    if as_json:
        common.print_json({"network": network.name, "video": video, "mode": deciding, **result.to_dict()})
    else:
        typer.echo(str(result))
    return common.ended(stopped[0] if stopped else None)


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(compare))
