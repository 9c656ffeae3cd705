"""`deltafx.estimate`: whether a converted network pays on a camera, from samples of a video."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.networks import IMAGENET, Network
from deltafx.playback import Playback
from deltafx.preprocess import Preprocess
from deltafx.settings import MODES
from deltafx.video import Video, VideoError

BUDGET_S = 45.0
PLACES = 8  # of the video, where stretches of it begin if time is short
LONGEST, SHORTEST, LEAST = 25, 13, 6  # frames of a stretch: at most, if there is time, and in any case
DENSE_EVERY = 4  # the dense network is the slowest, and sees fewer frames
NOISY = 0.8  # the share of updated pixels, in exact mode
BUSY = 0.4  # the share of multiply-accumulates that are left, in balanced mode
WORTH = 1.2  # a smaller speed-up does not pay
SMALL = 128  # pixels of the longer side of the pictures in which motion is looked for
MOVES = 0.5  # the share of pairs of frames that are shifted against each other, from which the camera moves


@dataclass(frozen=True)
class ModeEstimate:
    """What is predicted for a mode: means over frames; the speed-up is over eager PyTorch, channels last."""

    mode: str
    update_rate: float  # of the input's pixels
    macs: float
    macs_ratio: float | None  # how many times fewer than dense; None: none at all
    ms: float
    speed_up: float
    relative_error: float


@dataclass(frozen=True)
class Estimate:
    """What is predicted for a network on a camera, and in a sentence whether it pays, or why it does not."""

    pays: bool
    verdict: str
    modes: tuple[ModeEstimate, ...]
    ms_dense: float
    macs_dense: int
    frames: int  # that were looked at
    camera_motion: float  # pixels a frame; 0: it stands still

    def __getitem__(self, mode: str) -> ModeEstimate:
        return next(each for each in self.modes if each.mode == mode)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            f"{each.mode}: {each.update_rate:.1%} of the pixels updated, "
            f"{'no' if each.macs_ratio is None else f'{each.macs_ratio:.1f} times fewer'} MACs, "
            f"{each.ms:.1f} ms a frame, {each.speed_up:.1f} times faster than dense, "
            f"relative error {each.relative_error:.1e}"
            for each in self.modes
        ]
        return "\n".join([*rows, self.verdict])


def estimate(
    model: nn.Module,
    clip: str | PathLike[str],
    *,
    preprocess: Preprocess = IMAGENET,
    size: tuple[int, int] | None = None,
    budget: float = BUDGET_S,
    progress: Callable[[], None] = lambda: None,
) -> Estimate:
    """Predict multiply-accumulates, error and speed of each mode on this machine, within about a minute.

    Args:
        model: what `convert` takes. Its weights are put into channels last.
        clip: a video file of the camera.
        preprocess: what the network makes of the video's uint8 RGB frames; by default what ImageNet's networks do.
        size: height and width to which frames are resized; the video's own by default.
        budget: seconds after which no more of the video is looked at.
        progress: called after each frame.

    Raises:
        FileNotFoundError, VideoError: the video cannot be read, or is shorter than two frames.
        ConvertError: the model cannot be converted.
    """
    playback = Playback(Network(type(model).__name__, model, preprocess), MODES)
    ends = time.perf_counter() + budget
    shifts: list[tuple[float, float]] = []
    for stretch in stretches(clip, size, ends):
        before: np.ndarray | None = None
        for shown in playback.play(stretch, DENSE_EVERY):
            if before is not None:
                shifts.append(shift(before, shown.frame))
            before = shown.frame
            progress()
    if not playback.dense_ms:
        raise VideoError(f"{clip}: one frame is not enough; the first is computed in full.")
    fields = ModeEstimate.__dataclass_fields__
    modes = tuple(
        ModeEstimate(**{name: value for name, value in summary.items() if name in fields})
        for summary in playback.summaries()
    )
    motion = motion_of(shifts)
    pays, verdict = judge({each.mode: each for each in modes}, motion)
    ms_dense = sum(playback.dense_ms) / len(playback.dense_ms)
    return Estimate(pays, verdict, modes, ms_dense, playback.macs_dense, len(playback.runs[0].ms), motion)


def stretches(clip: Any, size: tuple[int, int] | None, ends: float) -> Iterator[Iterator[np.ndarray]]:
    """Runs of consecutive frames from all over the video, those far apart first; at least one.

    They end when the time is over, or as many frames were seen as the video has.
    They are as long as the time allows that is left: a change that is withheld at first may count as one later.
    """
    length = SHORTEST
    for number, place in enumerate(places()):
        started = time.perf_counter()
        if number and started > ends:
            return
        with Video(clip) as video:
            if video.live:
                raise VideoError(f"{clip}: an estimate looks at several parts of a file; record a minute of it first.")
            if number and (number * length >= video.seconds * video.rate or not video.seek(place)):
                return
            yield readable(video.frames(length, size), ends)
        now = time.perf_counter()
        frame = (now - started) / length  # seconds, the reading and the plans of the first one included
        left = max(0.0, ends - now) / max(1, PLACES - 1 - number)
        length = min(LONGEST, max(SHORTEST, int(left / frame)))


def places() -> Iterator[float]:
    """Shares of the video, each as far from those before as can be: 0, 1/2, 1/4, 3/4, 1/8, 5/8, 3/8, 7/8, 1/16, ..."""
    for number in itertools.count():
        yield sum(1 / (2 << bit) for bit in range(number.bit_length()) if number >> bit & 1)


def readable(frames: Iterator[np.ndarray], ends: float) -> Iterator[np.ndarray]:
    """The frames that there is time for; a video that breaks ends there."""
    with contextlib.suppress(VideoError):
        for number, frame in enumerate(frames):
            if number >= LEAST and time.perf_counter() > ends:
                return
            yield frame


# ---------------------------------------------------------------------------------------------------------------------
# Whether the camera moves


def shift(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """By how many pixels one frame is moved against another, down and to the right: phase correlation."""
    scale = max(1.0, max(before.shape[:2]) / SMALL)
    a, b = (spectrum(grey(frame, scale)) for frame in (before, after))
    cross = b * a.conj()
    peak = torch.fft.ifft2(cross / cross.abs().clamp(min=1e-6)).real
    row, column = divmod(int(peak.argmax()), peak.shape[1])
    down, right = (place - side if place > side // 2 else place for place, side in zip((row, column), peak.shape))
    return down * scale, right * scale


def grey(frame: np.ndarray, scale: float) -> Tensor:
    picture = torch.from_numpy(np.ascontiguousarray(frame)).float().mean(2)[None, None]
    size = [max(8, round(side / scale)) for side in picture.shape[-2:]]
    return F.interpolate(picture, size, mode="area")[0, 0]


def spectrum(picture: Tensor) -> Tensor:
    """Of the picture, faded out to its edges, which are no edges of the scene."""
    rows, columns = (torch.hann_window(side, periodic=False) for side in picture.shape)
    return torch.fft.fft2((picture - picture.mean()) * rows[:, None] * columns)


def motion_of(shifts: list[tuple[float, float]]) -> float:
    """Pixels a frame by which the camera moves; 0 where most frames lie on each other."""
    moved = [abs(complex(*each)) for each in shifts if each != (0, 0)]
    return sum(moved) / len(moved) if shifts and len(moved) >= MOVES * len(shifts) else 0.0


# ---------------------------------------------------------------------------------------------------------------------
# The verdict


def judge(modes: dict[str, ModeEstimate], motion: float) -> tuple[bool, str]:
    """Whether it pays and why; of the modes, the most exact one is named that has half of the best speed-up."""
    exact, balanced = modes["exact"], modes["balanced"]
    fastest = max(each.speed_up for each in modes.values())
    best = next(each for each in modes.values() if each.speed_up >= fastest / 2)
    left = 1 / balanced.macs_ratio if balanced.macs_ratio else 0.0
    if motion and left >= BUSY:
        return False, (
            f"No: this camera moves, by about {motion:.0f} pixels a frame, so {left:.0%} of the multiply-accumulates "
            f"are left. deltafx is for fixed cameras."
        )
    if left >= BUSY or best.speed_up < WORTH:
        why = (
            f"{left:.0%} of the multiply-accumulates are left even where noise is ignored, as in cuts and where all of "
            f"a scene moves"
            if left >= BUSY
            else f"a frame costs {best.ms:.1f} ms although only {best.update_rate:.0%} of its pixels change; the "
            f"frames are too small, or the network too light, for the bookkeeping to pay"
        )
        return False, (
            f"No: {why}. Best is {best.mode}, {best.speed_up:.1f} times as fast as dense with a relative error of "
            f"{best.relative_error:.1e}."
        )
    noise = ""
    if exact.update_rate >= NOISY > balanced.update_rate:
        noise = f" Noise updates {exact.update_rate:.0%} of the pixels, so exact mode saves little."
    return True, (
        f"Yes: {best.mode} is predicted to run {best.speed_up:.1f} times faster than dense, with a relative error of "
        f"{best.relative_error:.1e}.{noise}"
    )
