"""Videos in and out, frame by frame, with PyAV: files, cameras and network streams."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

NEEDS_AV = "reading and writing video needs PyAV: pip install 'deltafx[demo]' (or: pip install av)"
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
WHOLE = 0.9  # a file that gives less than this share of the frames it announces is broken


class VideoError(ValueError):
    """A video that cannot be read, or not to its end; the frames that were read before are good."""


class Video(AbstractContextManager):
    """An open video: a file, a camera (its number), or a stream (its URL).

    `height`, `width` and `rate` (frames a second) are those of the upright frames; `announced` is how many frames the
    file says it has and `seconds` how long it is, 0 where that is not known; `note` says what a user should know.
    Raises FileNotFoundError, VideoError where nothing can be read, and ImportError without PyAV.
    """

    def __init__(self, source: str | PathLike[str] | int):
        try:
            import av
        except ImportError as error:
            raise ImportError(NEEDS_AV) from error
        self.errors = av.FFmpegError
        self.name = str(source)
        self.live = is_live(self.name)
        if not self.live and not Path(self.name).is_file():
            raise FileNotFoundError(f"{self.name}: no such file")
        try:
            self.container = av.open(*address(self.name))
        except self.errors as error:
            what = "cannot be opened" if self.live else "not a video that can be read"
            raise VideoError(f"{label(self.name)}: {what} ({error.strerror})") from error
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def open(self) -> None:
        if not self.container.streams.video:
            raise VideoError(f"{self.name}: the file has no video track")
        stream = self.container.streams.video[0]
        stream.thread_type = "AUTO"
        self.decoded = self.container.decode(stream)
        self.first = self.next_frame(0)
        if self.first is None:
            raise VideoError(f"{self.name}: the video has no frames")
        self.turns = round(self.turned(self.first) / 90) % 4  # counter-clockwise quarters
        sides = self.first.height, self.first.width
        self.height, self.width = sides if self.turns % 2 == 0 else sides[::-1]
        self.rate = float(stream.average_rate or stream.guessed_rate or 25)
        self.announced = 0 if self.live else stream.frames
        self.seconds = self.container.duration / 1e6 if self.container.duration else self.announced / self.rate
        self.note = f"{self.name} is stored turned; its frames are turned upright." if self.turns else None

    @staticmethod
    def turned(frame: Any) -> float:
        """By how many degrees counter-clockwise a stored frame is to be turned."""
        return frame.rotation

    def next_frame(self, number: int) -> Any:
        try:
            return next(self.decoded, None)
        except self.errors as error:
            where = f"frame {number} cannot be decoded" if number else "not a video that can be read"
            raise VideoError(f"{label(self.name)}: {where} ({error.strerror})") from error

    def seek(self, share: float) -> bool:
        """Go to that share of the file's length; False where that is not known, or there is nothing."""
        stream = self.container.streams.video[0]
        if not self.seconds or not stream.time_base:
            return False
        start = float(stream.start_time or 0) * float(stream.time_base)
        target = start + share * self.seconds
        try:
            self.container.seek(int(target / float(stream.time_base)), stream=stream)
            self.decoded = self.container.decode(stream)
            self.first = next((frame for frame in self.decoded if frame.time is None or frame.time >= target), None)
        except self.errors:
            return False
        self.announced = 0  # of what follows it is not known how much there is
        return self.first is not None

    def frames(self, count: int | None = None, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        """The first `count` frames (all by default), uint8 RGB `[H, W, 3]`, resized to `size` (height, width) if given.

        Can be gone through once. Raises VideoError at a frame that cannot be decoded or has another size than the
        first, and where a file ends long before the end that it announces.
        """
        height, width = size or (self.height, self.width)
        stored = (width, height) if self.turns % 2 == 0 else (height, width)
        frame, number = self.first, 0
        while frame is not None and number != count:
            if (frame.width, frame.height) != (self.first.width, self.first.height):
                raise VideoError(
                    f"{label(self.name)}: frame {number} is {frame.width}x{frame.height}, those before are "
                    f"{self.first.width}x{self.first.height}; state belongs to one size. What came before is kept."
                )
            picture = frame.to_ndarray(format="rgb24", width=stored[0], height=stored[1])
            yield np.ascontiguousarray(np.rot90(picture, self.turns)) if self.turns else picture
            number += 1
            frame = self.next_frame(number) if number != count else None
        if number != count and number < WHOLE * self.announced:
            raise VideoError(f"{self.name}: the file is broken: it ends after frame {number} of {self.announced}.")

    def close(self) -> None:
        self.container.close()

    def __exit__(self, *error: Any) -> None:
        self.close()


def is_live(source: str) -> bool:
    """Whether it is a camera's number or a stream's URL, not a file."""
    return source.isdigit() or "://" in source


def label(source: str) -> str:
    return f"camera {source}" if source.isdigit() else source


def address(source: str) -> tuple:
    """The arguments of `av.open`."""
    if not source.isdigit():
        return (source,)
    format, device = CAMERAS.get(sys.platform, CAMERAS["linux"])
    return device.format(source), "r", format


def read_frames(path: str | PathLike[str], count: int | None = None) -> Iterator[np.ndarray]:
    """The first `count` frames of a video (all of them by default) as uint8 RGB arrays `[H, W, 3]`; see `Video`."""
    if count is not None and count < 0:
        raise ValueError(f"count is {count}; it must be at least 0, or None for all frames")
    with Video(path) as video:
        yield from video.frames(count)


class VideoWriter(AbstractContextManager):
    """Writes an H.264 file. However the block ends, the file is finished; without a frame there is none."""

    def __init__(self, path: str | PathLike[str], rate: float):
        try:
            import av
        except ImportError as error:
            raise ImportError(NEEDS_AV) from error
        self.av = av
        self.path, self.rate = Path(path), Fraction(rate).limit_denominator(1000)
        self.container: Any = None

    def write(self, picture: np.ndarray) -> None:
        """Append a uint8 RGB picture `[H, W, 3]`; all have the size of the first, cut to even numbers."""
        if self.container is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.container = self.av.open(str(self.path), "w", options={"movflags": "faststart"})
            self.stream = self.container.add_stream(
                "libx264", rate=self.rate, options={"crf": "20", "preset": "veryfast"}
            )
            self.stream.height, self.stream.width = (side // 2 * 2 for side in picture.shape[:2])
            self.stream.pix_fmt = "yuv420p"
        picture = np.ascontiguousarray(picture[: self.stream.height, : self.stream.width])
        self.container.mux(self.stream.encode(self.av.VideoFrame.from_ndarray(picture, format="rgb24")))

    def __exit__(self, *error: Any) -> None:
        if self.container is not None:
            self.container.mux(self.stream.encode())
            self.container.close()
