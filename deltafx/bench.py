"""A dense network beside converted ones on real frames: the figures that `bench`, `demo` and `html` show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltafx.networks import Network
from deltafx.playback import Playback, Shown
from deltafx.report import Report, report
from deltafx.settings import MODES
from deltafx.video import VideoError


@dataclass(frozen=True)
class Bench:
    """What came out. `result` is for JSON; `reports` has that of each converted network after the last frame.

    The means in the reports are over the frames of `result`: all but the first. `stopped` says why the run ended early,
    if it did.
    """

    result: dict[str, Any]
    reports: Mapping[str, Report]
    stopped: str | None


def run_bench(
    network: Network,
    frames: Iterable[np.ndarray],
    *,
    clip: str,
    modes: Iterable[str] = tuple(MODES),
    options: Mapping[str, Any] | None = None,
    converted: Mapping[str, Any] | None = None,
    each: Callable[[Shown, Playback], None] = lambda shown, playback: None,
) -> Bench:
    """Run `network` dense and converted over uint8 RGB frames of one size; the two take turns, frame by frame.

    `options` are those of `convert`; `converted` has networks that are converted already, by what to call them, beside
    those of `modes`. `each` is called after every frame. An interrupt, or a video that breaks, ends the run; what was
    done is kept. Raises ConvertError where the network cannot be converted, and VideoError where not even two frames
    could be run.
    """
    playback = Playback(network, modes, options, converted)
    stopped: str | None = None
    try:
        for shown in playback.play(frames):
            each(shown, playback)
    except VideoError as error:
        stopped = str(error)
    except KeyboardInterrupt:
        if not playback.dense_ms:
            raise
        stopped = "interrupted"
    if not playback.dense_ms:
        raise VideoError(stopped or f"{clip}: one frame is not enough; the first is computed in full.")
    reports = {run.mode: report(run.dm) for run in playback.runs}
    result = playback.result(clip, stopped)
    for mode in result["modes"]:
        mode["report"] = reports[mode["mode"]].totals
    return Bench(result, reports, stopped)
