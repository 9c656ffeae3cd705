"""One converted network for all views, which ran a few frames with profiling; and one in parts."""

import functools

import torch
from torch import fx, nn

import deltafx
from deltafx.networks import UNIT
from deltafx.scene import scene
from tests.tiny_onnx import write_tiny_onnx

__all__ = ["Two", "in_parts", "shown", "write_tiny_onnx"]


@fx.wrap
def unknown(x):
    """No operator is known for it."""
    return (x.sort(1)[0] @ x.transpose(2, 3)) @ x


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.norm(self.first(x)))) + x)


class Two(nn.Module):
    """Two blocks, an island, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.head(unknown(self.blocks(self.stem(x))))


class Decides(nn.Module):
    """By what it sees, so that it is captured by parts: the second is given what the first returned."""

    def __init__(self):
        super().__init__()
        self.backbone = Block(3)
        self.neck = nn.Conv2d(3, 6, 3, padding=1)
        self.found = nn.Linear(6, 2)

    def forward(self, x):
        y = self.neck(self.backbone(x))
        rows = y[0, :, : 2 if y.mean() > 1e9 else 3, 0].t()
        return y, self.found(rows)


def model(kind=Two):
    torch.manual_seed(0)
    return kind().eval()


@functools.cache
def shown():
    dm = deltafx.convert(model(), mode="balanced", preprocess=UNIT, options={"profile": True})
    for frame in scene(4):
        dm(frame)
    return dm


@functools.cache
def in_parts():
    dm = deltafx.convert(model(Decides), options={"profile": True})
    for frame in scene(3, 24, 32, size=6):
        dm(UNIT(frame))
    return dm


class Crowded(nn.Module):
    """A dense block: every layer reads all before it, so that there are many more lines than nodes."""

    def __init__(self, layers=9):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3 + 2 * i, 2, 1) for i in range(layers)])

    def forward(self, x):
        found = [x]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return torch.cat(found, 1)


def crowded():
    dm = deltafx.convert(Crowded().eval())
    dm(torch.rand(1, 3, 8, 8))
    return dm
