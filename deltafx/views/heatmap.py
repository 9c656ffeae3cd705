"""Which pixels of a node were updated, over the frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deltafx.masks import first_frame_of, input_of, mask_of, node_over_frame
from deltafx.views.colours import rgb_of

if TYPE_CHECKING:
    from deltafx.converted import Converted

DIM, TINT = 0.45, 0.55


def heatmap(dm: Converted, node: str | None = None, frame: np.ndarray | None = None, *, stream: int = 0) -> np.ndarray:
    """The last frame with what a node updated in it lit up: uint8 RGB `[H, W, 3]`.

    Args:
        node: a path of the report; without it the input.
        frame: uint8 RGB `[H, W, 3]`, the picture to draw on. Without it the frame that the input remembers, which is as
            large as the model's input, and stretched to 0..255 where the model is given normalised frames.
        stream: which element of the batch.

    Save it with `PIL.Image.fromarray(...)`. Raises ValueError before the first frame, for a node without rows and
    columns, and for a stream that does not exist.
    """
    mask = mask_of(dm, node, stream)
    if frame is None:
        frame = first_frame_of(dm, stream)
    mask = node_over_frame(mask, mask_of(dm, input_of(dm), stream).shape, frame)
    return lit(frame, (mask != 0).astype(np.float32))


def lit(frame: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """A frame, uint8 RGB `[H, W, 3]`, dark and grey, coloured where `rates` `[H, W]` (0..1) are above 0."""
    grey = frame.astype(np.float32).mean(2, keepdims=True)
    dark = DIM * (0.7 * grey + 0.3 * frame)
    colours = np.stack([rgb_of(level / 255) for level in range(256)]).astype(np.float32)
    tinted = TINT * colours[(255 * rates.clip(0, 1)).astype(int)] + (1 - TINT) * frame
    return np.where(rates[..., None] > 0, tinted, dark).clip(0, 255).astype(np.uint8)
