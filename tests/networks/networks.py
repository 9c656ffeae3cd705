"""The networks that every backend must get right, with random weights in which rounding is not amplified."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision import models

from deltafx.testing import clip, scale_weights

# What a constructor needs beside `weights=None`.
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},  # it takes seconds, and all weights are scaled anyway
    "inception_v3": {"init_weights": False},
    "fcn_resnet50": {"weights_backbone": None, "aux_loss": True},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None, "aux_loss": True},
    "lraspp_mobilenet_v3_large": {"weights_backbone": None},
}
NETWORKS = (
    "resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "vgg16_bn", "alexnet", "densenet121", "googlenet",
    "inception_v3", "squeezenet1_1", "mnasnet1_0", "shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_large",
    "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "fcn_resnet50",
    "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
)  # fmt: skip

# The reference backend is slow: what the compiled one does too is checked on these, which together have all operators.
ON_THE_REFERENCE = (
    "resnet18", "densenet121", "googlenet", "squeezenet1_1", "shufflenet_v2_x1_0", "mobilenet_v3_large",
    "efficientnet_b0", "convnext_tiny", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
)  # fmt: skip


def each(*others: Any) -> Any:
    """Parameters: every network, with each of `others`.

    A tuple that begins ("reference", "value") comes with those networks only that are for it.
    """
    return [
        (name, *other) if other else name
        for name in NETWORKS
        for other in (others or [()])
        if other[:2] != ("reference", "value") or name in ON_THE_REFERENCE
    ]


def network(name: str, height: int, width: int) -> nn.Module:
    """The network in evaluation mode, scaled on frames from all over the clip, the black ones included."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.get_model(name, weights=None, **OPTIONS.get(name, {}))
    frames = clip(25, height, width)
    some = (0, 6, 12, 13, 18, 24)
    return scale_weights(model, torch.cat([frame for number, frame in enumerate(frames) if number in some]))
