"""The demo: converts MobileNetV2, runs a clip through it and prints the graph, what was saved and where.

Run as `python -m deltafx.demo [--clip PATH] [--frames N] [--mode exact|balanced|fast]`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

import deltafx
from deltafx.models_zoo import assets, mobilenet_v2
from deltafx.video import read_frames

MODES = ("exact", "balanced", "fast")
CLIP = "test_A.avi"  # a fixed camera
SHORT_SIDE = 288  # pixels; larger frames are reduced to this, so that the reference backend takes seconds, not minutes


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the demo with the given command line, by default the program's own."""
    options = _parse(arguments)
    try:
        model = mobilenet_v2.load()
        clip = options.clip or assets.fetch(CLIP)
        frames = [_prepare(frame) for frame in read_frames(clip, options.frames)]
    except (assets.AssetError, OSError, ValueError) as error:
        sys.exit(f"demo: {error}")

    dm = deltafx.convert(model, mode=options.mode)
    print(dm.graph)
    height, width = frames[0].shape[-2:]
    print(f"\nMobileNetV2, {clip.name}, {len(frames)} frames of {width}x{height}, mode {options.mode}:\n")
    print(deltafx.compare(model, dm, frames))
    print()
    print(deltafx.report(dm))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deltafx.demo", description="Runs MobileNetV2 on a clip.")
    parser.add_argument("--clip", type=Path, help=f"a video file of a fixed camera (default: {CLIP}, fetched once)")
    parser.add_argument("--frames", type=int, default=30, help="how many frames to run (default: %(default)s)")
    parser.add_argument("--mode", choices=MODES, default="balanced", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.frames < 1:
        parser.error(f"--frames is {options.frames}; it must be at least 1")
    return options


def _prepare(frame: np.ndarray) -> Tensor:
    """Returns the network's input `[1, 3, H, W]` for a frame, its short side at most SHORT_SIDE."""
    pixels = mobilenet_v2.preprocess(frame)
    scale = SHORT_SIDE / min(pixels.shape[-2:])
    if scale >= 1:
        return pixels
    size = [round(side * scale) for side in pixels.shape[-2:]]
    return interpolate(pixels, size, mode="bilinear", antialias=True)


if __name__ == "__main__":
    main()
