"""Reading video files, frame by frame, with PyAV."""

from collections.abc import Iterator
from itertools import islice
from os import PathLike
from pathlib import Path

import numpy as np


def read_frames(path: str | PathLike[str], count: int | None = None) -> Iterator[np.ndarray]:
    """Yields the first `count` frames of a video file (all of them by default) as uint8 RGB arrays `[H, W, 3]`.

    Raises, when the first frame is asked for: FileNotFoundError, or ValueError when the file is not a video, has no
    frames or `count` is negative. A frame that cannot be decoded raises ValueError when it is reached.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("reading video needs PyAV: pip install 'deltafx[demo]' (or: pip install av)") from error

    if count is not None and count < 0:
        raise ValueError(f"count is {count}; it must be at least 0, or None for all frames")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    read = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: the file has no video track")
            for frame in islice(container.decode(video=0), count):
                yield frame.to_ndarray(format="rgb24")
                read += 1
    except av.FFmpegError as error:
        where = f"frame {read} cannot be decoded" if read else "not a video that can be read"
        raise ValueError(f"{path}: {where} ({error.strerror})") from error
    if read == 0 and count != 0:
        raise ValueError(f"{path}: the video has no frames")
