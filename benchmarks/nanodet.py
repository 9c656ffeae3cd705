"""NanoDet-g (Lyu, 2021), a COCO detector, from its ONNX file, which no package ships; what its maps mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from deltafx.detections import Detections, suppress
from deltafx.models_zoo.onnx_file import read_onnx
from deltafx.networks import Network
from deltafx.preprocess import Preprocess

LEAST_SCORE, OVERLAP = 0.2, 0.6
CLASSES, BINS = 80, 11
HEIGHT = 576  # of the frames that the file was exported for


# It takes BGR.
PREPROCESS = Preprocess(
    mean=tuple(x / 255 for x in (103.53, 116.28, 123.675)), std=tuple(x / 255 for x in (57.375, 57.12, 58.395)),
    swap_channels=True,
)  # fmt: skip


def load(folder: Path) -> Network:
    """From `nanodet_g_576x768.onnx` in the folder."""
    model = read_onnx(folder / "nanodet_g_576x768.onnx")
    return Network("nanodet", model, PREPROCESS, postprocess=detections, stride=32)


def detections(outputs: Sequence[Tensor]) -> list[Detections]:
    """In each stream, in pixels: maps of three strides with 80 logits and the four sides' distances, 11 bins each."""
    found = []
    for stream in range(len(outputs[0])):
        boxes, scores, labels = [], [], []
        for out in outputs:
            stride = HEIGHT / out.shape[2]
            best, label = out[stream, :CLASSES].sigmoid().max(0)
            rows, columns = (best > LEAST_SCORE).nonzero(as_tuple=True)
            bins = out[stream, CLASSES:, rows, columns].reshape(4, BINS, -1).softmax(1)
            left, top, right, bottom = stride * (bins * torch.arange(BINS).view(1, BINS, 1)).sum(1)
            y, x = (rows + 0.5) * stride, (columns + 0.5) * stride
            boxes.append(torch.stack([x - left, y - top, x + right, y + bottom], 1))
            scores.append(best[rows, columns])
            labels.append(label[rows, columns])
        found.append(suppress(Detections(torch.cat(boxes), torch.cat(scores), torch.cat(labels)), OVERLAP))
    return found
