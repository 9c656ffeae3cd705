"""A made-up video, for a look at a network without one: a bright square moves over a textured wall."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def scene(
    frames: int, height: int = 64, width: int = 96, noise: float = 0.0, pan: int = 0, size: int = 14
) -> Iterator[np.ndarray]:
    """uint8 RGB frames `[height, width, 3]`. `noise` is a deviation in grey levels, `size` the side of the square.

    `pan` moves the camera, in pixels a frame.
    """
    generator = np.random.default_rng(0)
    wide = width + abs(pan) * frames
    coarse = generator.uniform(40, 200, (height // 8 + 1, wide // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
    wall = coarse[:height, :wide] + generator.uniform(-15, 15, (height, wide, 3))
    for number in range(frames):
        frame = wall[:, abs(pan) * number :][:, :width].copy()
        row, column = height // 3, (4 + 2 * number) % (width - size)
        frame[row : row + size, column : column + size] = (250, 240, 60)
        frame += noise * generator.standard_normal(frame.shape)
        yield frame.clip(0, 255).astype(np.uint8)
