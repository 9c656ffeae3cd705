"""torchvision's MobileNetV2, an ImageNet classifier, with its real weights."""

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from deltafx.models_zoo.assets import ASSETS, fetch

WEIGHTS = "mobilenet_v2-b0353104.pth"
LICENCE = f"code: BSD-3-Clause (torchvision); weights: {ASSETS[WEIGHTS].licence}"

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0..1
STD = (0.229, 0.224, 0.225)


def load() -> nn.Module:
    """Returns the network in eval mode. Raises AssetError when the weights cannot be fetched."""
    model = mobilenet_v2()
    model.load_state_dict(torch.load(fetch(WEIGHTS), weights_only=True))
    return model.eval()


def preprocess(frame: np.ndarray) -> Tensor:
    """Turns a uint8 RGB frame `[H, W, 3]` into the network's float32 input `[1, 3, H, W]`, at its own size.

    Raises ValueError for any other dtype or shape.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"expected a uint8 RGB frame [H, W, 3], met {frame.dtype} {list(frame.shape)}")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    pixels = torch.from_numpy(frame.astype(np.float32, order="C")).permute(2, 0, 1) / 255
    return ((pixels - mean) / std).unsqueeze(0).contiguous()
