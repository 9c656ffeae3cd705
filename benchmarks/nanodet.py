"""NanoDet-g (Lyu, 2021), a COCO detector, from its ONNX file: what its maps mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deltafx import Preprocess
from deltafx.detections import Detections, suppress

CLASSES, BINS = 80, 11  # channels of a map: class logits, then how likely each side is 0..10 cells away
LEAST_SCORE, OVERLAP = 0.35, 0.6
# It takes BGR.
PREPROCESS = Preprocess(
    mean=tuple(x / 255 for x in (103.53, 116.28, 123.675)), std=tuple(x / 255 for x in (57.375, 57.12, 58.395)),
    swap_channels=True,
)  # fmt: skip


def objects(maps: Sequence[Tensor], height: int) -> Detections:
    """What it sees in the only stream of its maps `[1, 80 + 4 * 11, h, w]`, one for each stride."""
    found = []
    for each in maps:
        rows, columns = each.shape[2:]
        cell = height / rows
        score, label = each[0, :CLASSES].sigmoid().max(0)
        sides = each[0, CLASSES:].reshape(4, BINS, rows, columns).softmax(1)
        left, top, right, bottom = cell * (sides * torch.arange(float(BINS)).view(1, BINS, 1, 1)).sum(1)
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) * cell, (torch.arange(columns) + 0.5) * cell, indexing="ij")
        boxes = torch.stack([x - left, y - top, x + right, y + bottom], -1)
        keep = score > LEAST_SCORE
        found.append(Detections(boxes[keep], score[keep], label[keep]))
    together = Detections(*(torch.cat([getattr(part, k) for part in found]) for k in ("boxes", "scores", "labels")))
    return suppress(together, OVERLAP)
