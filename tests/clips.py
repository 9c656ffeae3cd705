"""Small videos for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deltafx.scene import scene

__all__ = ["scene", "write"]


def write(path: Path, frames: Sequence[np.ndarray], codec: str = "ffv1", pixel_format: str = "bgr0") -> Path:
    """A lossless clip of 10 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
