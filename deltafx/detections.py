"""Boxes, and how far two networks agree on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SEEN, FOUND, SURE = 0.35, 0.4, 0.5  # scores
SAME = 0.5  # intersection over union


@dataclass(frozen=True)
class Detections:
    """What a detector sees in a frame of a stream: boxes `[K, 4]` (x1, y1, x2, y2 in pixels), scores, labels `[K]`."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def above(self, score: float) -> Detections:
        return self[self.scores >= score]

    def __getitem__(self, which: Tensor) -> Detections:
        return Detections(self.boxes[which], self.scores[which], self.labels[which])


def suppress(detections: Detections, overlap: float) -> Detections:
    """Without those that overlap a better one of their label by more than `overlap` (IoU); the best first."""
    from torchvision.ops import batched_nms

    return detections[batched_nms(detections.boxes, detections.scores, detections.labels, overlap)]


def pairs(a: Detections, b: Detections) -> list[tuple[int, int]]:
    """Which of `a` is which of `b`: pairs of one label whose boxes overlap by more than SAME, the closest first."""
    from torchvision.ops import box_iou

    overlap = box_iou(a.boxes, b.boxes) * (a.labels[:, None] == b.labels[None])
    found = []
    while overlap.numel() and overlap.max() > SAME:
        i, j = divmod(int(overlap.argmax()), overlap.shape[1])
        overlap[i], overlap[:, j] = 0, 0
        found.append((i, j))
    return found


def matches(a: Detections, b: Detections) -> int:
    """How many of `a` are in `b`."""
    return len(pairs(a, b))


class Agreement:
    """Adds up, frame by frame, how far detections agree with those of the dense network.

    `f1` counts detections with a score of FOUND and above. Scores flicker around any one number, also in the dense
    network itself; `f1_with_hysteresis` asks that what one network is SURE of, the other has at least SEEN, both ways.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.counts = torch.zeros(6, dtype=torch.int64)

    def add(self, got: Detections, want: Detections) -> None:
        found, wanted = got.above(FOUND), want.above(FOUND)
        claimed, strong = got.above(SURE), want.above(SURE)
        self.frames += 1
        self.counts += torch.tensor(
            [
                matches(found, wanted), len(found) + len(wanted),
                matches(strong, got.above(SEEN)), len(strong),
                matches(claimed, want.above(SEEN)), len(claimed),
            ]
        )  # fmt: skip

    @property
    def f1(self) -> float:
        both, all_of_them = self.counts[:2].tolist()
        return 2 * both / all_of_them if all_of_them else 1.0

    @property
    def f1_with_hysteresis(self) -> float:
        kept, strong, confirmed, claimed = self.counts[2:].tolist()
        recall = kept / strong if strong else 1.0
        precision = confirmed / claimed if claimed else 1.0
        return 2 * recall * precision / (recall + precision) if recall + precision else 0.0
