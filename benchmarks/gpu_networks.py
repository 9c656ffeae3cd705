"""The networks of the GPU benchmark, with random weights, scaled so that activations stay near 1.

NanoDet has its real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deltafx.preprocess import Preprocess
from deltafx.testing import clip, scale_weights

GATE_THRESHOLD = 0.1


class Missing(Exception):
    """Why a network is not there."""


@dataclass(frozen=True)
class Case:
    """A dense network, and what `convert` is told of it; `note` says what a reader must know.

    `copies`: in every call it computes with small tensors on the host, so that as it is it can be no CUDA graph.
    """

    model: nn.Module
    arguments: dict[str, Any] = field(default_factory=dict)
    forces_gates: bool = True
    note: str = ""
    preprocess: Preprocess | None = None  # of the frames of a clip; that of ImageNet where there is none
    copies: bool = False


class FirstStage(nn.Module):
    """What of Faster R-CNN runs on the picture: backbone, feature pyramid, and the head of the region proposals."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return self.head(list(self.backbone(x).values()))


def scaled(model: nn.Module) -> nn.Module:
    return scale_weights(model.eval(), torch.cat(list(clip(6, 224, 224))))


def torchvision_network(name: str) -> Case:
    from torchvision import models

    without = {"weights_backbone": None} if name.startswith(("fcn", "deeplab", "lraspp")) else {}
    return Case(scaled(models.get_model(name, weights=None, **without)))


def efficientnet_b0(_: Path) -> Case:
    """Its gates keep their decision: a forced one would have every frame change every pixel that they multiply."""
    from torchvision import models

    case = Case(scaled(models.efficientnet_b0(weights=None)))
    gates = [
        f"{name}.fc2" for name, module in case.model.named_modules() if type(module).__name__ == "SqueezeExcitation"
    ]
    return Case(
        case.model, {"threshold": dict.fromkeys(gates, GATE_THRESHOLD)}, forces_gates=False,
        note=f"threshold of the gates: {GATE_THRESHOLD} of each one's RMS; everything else is forced",
    )  # fmt: skip


def fasterrcnn_first_stage(_: Path) -> Case:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    whole = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    return Case(scaled(FirstStage(whole.backbone, whole.rpn.head)), note="resnet50, FPN and RPN head of Faster R-CNN")


def hrnet_w32(_: Path) -> Case:
    try:
        import timm
    except ImportError as error:
        raise Missing("pip install timm") from error
    return Case(scaled(timm.create_model("hrnet_w32", pretrained=False)))


def nanodet(data: Path) -> Case:
    if not (data / "nanodet_g_576x768.onnx").is_file():
        raise Missing(f"{data}/nanodet_g_576x768.onnx (--data)")
    try:
        from benchmarks import nanodet as entry
    except ImportError as error:
        raise Missing("pip install onnx2torch") from error
    network = entry.load(data)
    note = "real weights; its ONNX file is for 576x768"
    return Case(network.model, note=note, preprocess=network.preprocess, copies=True)


NETWORKS: dict[str, Callable[[Path], Case]] = {
    "efficientnet_b0": efficientnet_b0,
    "fasterrcnn_first_stage": fasterrcnn_first_stage,
    "hrnet_w32": hrnet_w32,
    "nanodet": nanodet,
}


def load(name: str, data: Path) -> Case:
    """Any network of torchvision that takes a picture, or one of those above. Raises Missing."""
    torch.manual_seed(0)
    return NETWORKS[name](data) if name in NETWORKS else torchvision_network(name)
