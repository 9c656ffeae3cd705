"""torchvision's MobileNetV2, an ImageNet classifier, with its real weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models import mobilenet_v2

from deltafx.models_zoo.assets import ASSETS, fetch
from deltafx.models_zoo.entry import Entry
from deltafx.preprocess import Preprocess

WEIGHTS = "mobilenet_v2-b0353104.pth"
IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def load() -> Entry:
    """Raises AssetError when the weights cannot be fetched."""
    model = mobilenet_v2()
    model.load_state_dict(torch.load(fetch(WEIGHTS), weights_only=True))
    return Entry(
        name="mobilenet_v2",
        model=model.eval(),
        preprocess=IMAGENET,
        postprocess=classes,
        stride=1,
        licence=f"code: BSD-3-Clause (torchvision); weights: {ASSETS[WEIGHTS].licence}",
        clip="test_A.avi",
    )


def classes(logits: Tensor) -> list[int]:
    """The class of each stream, for logits `[N, 1000]`."""
    return logits.argmax(1).tolist()
