"""What the commands share that look into a network: it is shown a few frames of a clip, or of a made-up scene."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from deltafx.cli import common
from deltafx.networks import Network, load_network

SCENE, SCENE_SIZE = "a made-up scene", (288, 384)


@dataclass(frozen=True)
class Pictures:
    """Frames of one size, uint8 RGB; what to call them; how many a second; how many there are, if that is known."""

    frames: Iterator[np.ndarray]
    name: str
    rate: float
    size: tuple[int, int]
    total: int | None


@contextlib.contextmanager
def pictures(network: Network, clip: str | None, frames: int | None, size: str | None) -> Iterator[Pictures]:
    """Of a clip, or made-up ones where none is given, in a size that the network takes."""
    from deltafx.scene import scene
    from deltafx.video import Video

    common.tell(network.note)
    if clip is None:
        height, width = common.fitted(network, network.size or SCENE_SIZE if size is None else common.parsed_size(size))
        shown = scene(frames or 1, height, width, noise=1.0, size=max(8, height // 6))
        yield Pictures(shown, SCENE, 10.0, (height, width), frames)
        return
    with Video(clip) as video:
        common.tell(video.note)
        height, width = common.fitted(network, common.size_of(size, video))
        total = common.total_of(video, frames)
        yield Pictures(video.frames(frames, (height, width)), clip, video.rate, (height, width), total)


@dataclass(frozen=True)
class Looked:
    """A network and what was converted from it, which has run."""

    network: Network
    dm: Any
    mode: str  # or "calibrated"
    clip: str
    size: tuple[int, int]
    stopped: str | None


def look(
    model: str, clip: str | None, mode: common.Mode, threshold: str | None, frames: int, size: str | None,
    mean: str | None, std: str | None,
) -> Looked:  # fmt: skip
    """Convert a network, with profiling, and show it frames; the report's means are over all of them but the first."""
    import deltafx
    from deltafx.converted import forget_counts, silence
    from deltafx.video import VideoError

    network = load_network(model, common.statistics(mean, std))
    name, how = common.deciding(mode, threshold)
    dm = deltafx.convert(network.model, preprocess=network.preprocess, options={"profile": True}, **how)
    silence(dm)  # the hints say it
    stopped = None
    done = 0
    with pictures(network, clip, frames, size) as shown, common.progress("frames", shown.total) as step:
        try:
            for picture in shown.frames:
                dm(picture)
                done += 1
                if done == 1:
                    forget_counts(dm)
                step()
        except VideoError as error:
            stopped = str(error)
        if done < 2:
            raise VideoError(stopped or f"{shown.name}: one frame is not enough; the first is computed in full.")
        return Looked(network, dm, name, shown.name, shown.size, stopped)
