"""A film of what a converted model computes: the frame, what was updated, and how much, over time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from deltafx.converted import Converted, check_converted, reset, settings_of
from deltafx.networks import Network
from deltafx.playback import Figures, Step, advance
from deltafx.video import Video, VideoError, VideoWriter

SHOWN = 150  # frames that the plots reach back
WITHOUT_CLIP_RATE = 25.0


def record(
    dm: Converted,
    clip: str | PathLike[str] | Iterable[np.ndarray],
    out: str | PathLike[str],
    *,
    postprocess: Callable[[Any], list[Any]] | None = None,
    name: str = "deltafx",
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    rate: float | None = None,
    progress: Callable[[Figures], None] = lambda figures: None,
) -> list[Figures]:
    """Run `dm` over a clip, from the start, and write an H.264 film of it to `out`; returns what each frame did.

    The film has the frame, beside it the same with what was updated glowing, and below plots of the update rate and of
    the time of a frame. Boxes are drawn where `postprocess` gives `Detections`.

    Args:
        dm: converted with `preprocess`, so that it takes uint8 frames.
        clip: a video file, a camera's number or a stream's URL; or uint8 RGB frames `[H, W, 3]` of one size.
        postprocess: what the outputs say of each stream, as that of `deltafx.models_zoo` does.
        frames: how many; all by default.
        size: height and width to resize a video's frames to.
        rate: frames a second of the film; the clip's own by default.
        progress: called after every frame with what it took.

    A video that breaks off, and an interrupt, end the film, which is finished first; then they are raised. Raises
    ValueError for a model without `preprocess`, and VideoError for a clip without frames.
    """
    check_converted(dm, "record")
    preprocess = settings_of(dm).preprocess
    if preprocess is None:
        raise ValueError(
            "record: the model takes normalised frames, which cannot be shown; convert it with "
            "preprocess=deltafx.Preprocess(mean=..., std=...), and it takes those of a video."
        )
    network = Network(name, dm, preprocess, postprocess)
    if isinstance(clip, (str, PathLike)):
        with Video(clip) as video:
            pictures = video.frames(frames, size)
            return film(dm, network, pictures, Path(out), rate or video.rate, progress)
    return film(dm, network, clip, Path(out), rate or WITHOUT_CLIP_RATE, progress)


def film(
    dm: Converted, network: Network, pictures: Iterable[np.ndarray], out: Path, rate: float, progress: Callable
) -> list[Figures]:
    reset(dm)
    steps: list[Figures] = []
    last: deque[Figures] = deque(maxlen=SHOWN)
    with VideoWriter(out, rate) as writer:
        for picture in pictures:
            step = advance(dm, network, picture)
            steps.append(step.figures)
            last.append(steps[-1])
            writer.write(sheet(picture, step, last, network.name))
            progress(steps[-1])
    if not steps:
        raise VideoError("the clip has no frames.")
    return steps


def sheet(picture: np.ndarray, step: Step, last: Iterable[Figures], name: str) -> np.ndarray:
    """One picture of the film."""
    from deltafx.picture import PANEL_WIDTH, Panel, Plot, delta_panel, plots, side_by_side

    plain = Panel(picture, name, None, f"{picture.shape[1]}x{picture.shape[0]}", step.meaning)
    panels = side_by_side([plain, delta_panel(picture, step, "updated pixels")])
    ms, rates = [each.ms for each in last], [each.update_rate for each in last]
    top_rate, top_ms = round_above(usual(rates)), round_above(usual(ms))
    row = [
        Plot("update rate", rates, f"{rates[-1]:.1%}", top_rate, f"{top_rate:.0%}"),
        Plot("time of a frame", ms, f"{ms[-1]:.1f} ms", top_ms, f"{top_ms:g} ms"),
    ]
    return np.concatenate([panels, plots(row, 2 * PANEL_WIDTH, SHOWN)])


def usual(values: list[float]) -> float:
    """The largest but one: the first frame is in full and slow, and would press all others to the bottom."""
    return sorted(values)[max(0, len(values) - 2)]


def round_above(value: float) -> float:
    """The next of 1, 2, 5, 10, ... (and of 0.01, 0.02, 0.05, ...) above a value, for the top of a scale."""
    power = 10.0 ** math.floor(math.log10(max(value, 0.005)))
    return next(step * power for step in (1, 2, 5, 10, 20) if step * power >= max(value, 0.01))
