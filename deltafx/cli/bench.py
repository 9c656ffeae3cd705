"""`deltafx bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from deltafx.cli import common
from deltafx.cli.demo import EXTRA
from deltafx.cli.looking import pictures
from deltafx.networks import load_network

HELP = f"""How fast a network is here, dense and converted in every mode, frame by frame in turn.

Medians, between which values half of the frames lie, multiply-accumulates and errors, on a clip or a made-up scene.

[bold]Examples[/bold]

  deltafx bench --model mobilenet_v2 --clip street.mp4

  deltafx bench --model mynet.py:build --frames 100 --out bench.json

{common.EXIT_CODES}
"""

BesideOption = Annotated[
    str | None,
    typer.Option(
        "--threshold", metavar="FILE", autocompletion=common.calibrations_like,
        help="a saved calibration, which is measured beside the modes",
    ),
]  # fmt: skip


def bench(
    model: common.ModelOption = "centerface",
    clip: common.ClipOption = None,
    threshold: BesideOption = None,
    frames: common.FewFramesOption = 50,
    size: common.SizeOption = None,
    mean: common.MeanOption = None,
    std: common.StdOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="also the time of all nodes together, without what is between them")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="a JSON file for the result")] = None,
    as_json: common.JsonOption = False,
) -> int:
    import deltafx
    from deltafx.bench import run_bench
    from deltafx.plain_json import to_json
    from deltafx.settings import CALIBRATED

    network = load_network(model, common.statistics(mean, std))
    options = {"profile": profile}
    converted = {}
    if threshold is not None:
        converted[CALIBRATED] = deltafx.convert(
            network.model, threshold=threshold, preprocess=network.preprocess, options=options
        )
    with pictures(network, clip, frames, size) as shown, common.progress("frames", shown.total) as step:
        done = run_bench(
            network, shown.frames, clip=shown.name, options=options, converted=converted,
            each=lambda frame, playback: step(),
        )  # fmt: skip
    if out is not None:
        common.made_room(out)
        out.write_text(to_json(done.result))
    if as_json:
        common.print_json(done.result)
    else:
        Console(highlight=False).print(table(done.result))
    return common.ended(done.stopped)


def table(result: dict[str, Any]) -> Table:
    height, width = result["size"]
    extra = [key for key in EXTRA if any(key in mode for mode in result["modes"])]
    timed = any(mode["report"]["milliseconds_mean"] is not None for mode in result["modes"])
    shown = Table(
        title=f"{result['network']} on {result['clip']}, {result['frames']} frames of {width}x{height}, "
        f"{result['threads']} threads",
        caption="\n".join(EXTRA[key][1] for key in extra), caption_justify="left",
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True,
    )  # fmt: skip
    shown.add_column("", no_wrap=True, min_width=len("balanced"))
    columns = ["ms/frame", "half lie in", "speed-up", "updated", "MMACs", "error", *(EXTRA[key][0] for key in extra)]
    for column in [*columns, *(["in nodes"] * timed)]:
        shown.add_column(column, justify="right", no_wrap=True)
    dense = result["dense"]
    shown.add_row("dense", f"{dense['ms_median']:.1f}", spread(dense), "", "", f"{dense['macs'] / 1e6:.0f}", "")
    for mode in result["modes"]:
        shown.add_row(
            mode["mode"], f"{mode['ms_median']:.1f}", spread(mode), f"{dense['ms_median'] / mode['ms_median']:.1f}x",
            f"{mode['update_rate']:.1%}", f"{mode['macs'] / 1e6:.0f}", f"{mode['relative_error']:.1e}",
            *(f"{mode[key]:.3f}" for key in extra),
            *([f"{mode['report']['milliseconds_mean']:.1f}"] if timed else []),
        )  # fmt: skip
    return shown


def spread(side: dict[str, Any]) -> str:
    low, high = side["ms_quartiles"]
    return f"{low:.1f}..{high:.1f}"


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(bench))
