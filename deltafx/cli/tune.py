"""`deltafx tune`."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from deltafx.cli import common
from deltafx.networks import load_network
from deltafx.tune import Tuning

FRAMES = 4  # the first ones are in full
HELP = f"""Measure which tiles the convolutions of a network run best with on this GPU, and keep it for later.

How large frames are, how many come at once, and how much of them changes decide what is best: give what you will use.
The result is a file for this kind of GPU in the cache folder ($DELTAFX_CACHE), to which every run adds.

[bold]Examples[/bold]

  deltafx tune --model resnet50 --size 1280x720

  deltafx tune --model mynet.py:build --size 640x480 --batch 8 --changed 0.02

{common.EXIT_CODES}
"""


class Precision(str, Enum):
    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


def tune(
    model: common.ModelOption = "centerface",
    size: Annotated[str, typer.Option("--size", metavar="WxH", help="of the frames")] = "1280x720",
    batch: Annotated[int, typer.Option("--batch", "-b", min=1, help="streams that come at once")] = 1,
    dtype: Annotated[Precision, typer.Option("--dtype", help="of the weights and frames")] = Precision.float16,
    changed: Annotated[
        float,
        typer.Option("--changed", min=0.001, max=1.0, help="share of the pixels that changes from frame to frame"),
    ] = 0.05,
    as_json: common.JsonOption = False,
) -> int:
    import torch

    import deltafx
    from deltafx.testing import blobs, force_masks

    if not torch.cuda.is_available():
        raise ValueError(
            "deltafx tune measures on a GPU, and PyTorch sees none here; on a CPU there is nothing to tune."
        )
    network = load_network(model)
    common.tell(network.note)
    height, width = common.fitted(network, common.parsed_size(size))
    kind = getattr(torch, dtype.value)
    dm = deltafx.convert(network.model.cuda().to(kind), backend="cuda")
    frame = torch.randn(batch, 3, height, width, device="cuda", dtype=kind)
    frame = frame.contiguous(memory_format=torch.channels_last)
    mask = blobs(height, width, changed).cuda()
    with force_masks(dm, mask), common.progress("kinds of convolution", None) as step:
        tuning = deltafx.tune(dm, [frame] * FRAMES, step=step)
    if as_json:
        common.print_json({**asdict(tuning), "file": str(tuning.file), "gain": tuning.gain})
    else:
        Console(highlight=False).print(table(tuning))
        common.tell(f"{tuning.file} has it for every network on a {tuning.device}.")
    return 0


def table(tuning: Tuning) -> Table:
    shown = Table(
        box=box.SIMPLE, title=f"All convolutions {tuning.gain:.2f} times as fast as before", title_justify="left"
    )
    for name in ("convolution", "nodes", "before, us", "after, us", "tile", "blocks a tile"):
        shown.add_column(name, justify="left" if name in ("convolution", "tile") else "right")
    for c in tuning.convolutions:
        numbers = (f"{c.nodes}", f"{c.before:.1f}", f"{c.after:.1f}")
        shown.add_row(c.convolution, *numbers, c.tile, f"{c.parts}")
    return shown


def register(app: typer.Typer) -> None:
    app.command(help=HELP)(common.reported(tune))
