"""A piece of a video as one small file, for machines that cannot decode one.

    python -m benchmarks.gpu_clip ../shared/data/vtest.avi --first 300 --frames 30 --out clip.npz

Frames are uint8 RGB. The first is kept whole, of the others the difference to the one before, modulo 256, which is
mostly 0 for a fixed camera; lossless.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np

MOST = 6 << 20  # bytes


def pack(frames: np.ndarray, path: Path) -> int:
    """Write uint8 frames `[T, H, W, 3]`; returns the bytes of the file."""
    changes = np.diff(frames, axis=0, prepend=np.zeros_like(frames[:1]))  # uint8 wraps around
    np.savez_compressed(path, changes=np.ascontiguousarray(changes.transpose(0, 3, 1, 2)))
    return path.stat().st_size


def unpack(path: Path) -> np.ndarray:
    """The frames `[T, H, W, 3]` of a file that `pack` wrote."""
    with np.load(path) as content:
        return np.cumsum(content["changes"], axis=0, dtype=np.uint8).transpose(0, 2, 3, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--first", type=int, default=0, help="frames to leave out before")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("clip.npz"))
    options = parser.parse_args()
    from deltafx.video import Video

    with Video(options.video) as video:
        chosen = islice(video.frames(), options.first, options.first + options.frames)
        size = pack(np.stack(list(chosen)), options.out)
    print(f"{options.out}: {options.frames} frames, {size / 2**20:.1f} MiB")
    if size > MOST:
        raise SystemExit(f"more than {MOST >> 20} MiB; take fewer frames")


if __name__ == "__main__":
    main()
