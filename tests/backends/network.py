"""A network that needs every family of kernels, pictures for it, and what stands in its buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import deltafx
from deltafx.measure import relative_error
from deltafx.testing import clip

# Of `convert`: every way to decide what is propagated.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"threshold": 0.1},
    {"threshold": 0.2, "norm": "max"},
    {"threshold": deltafx.absolute(0.3)},
    {"mode": "balanced"},
    {"mode": "fast"},
    {"input_gate": deltafx.InputGate(20)},
    {"input_gate": deltafx.InputGate(9, window=3, dilation=2, grey_level=0.02), "refresh_every": 5},
    {"input_gate": deltafx.InputGate(6, window=5, dilation=2, noise=3, drift=10)},
    {"input_gate": deltafx.InputGate(6, noise=3), "threshold": 0.1},
    {"input_gate": deltafx.InputGate(20, weak=0.5, reach=3, neighbours=2), "threshold": 0.1},
    {"input_gate": deltafx.InputGate(9, window=3, dilation=1, weak=0.4, reach=4)},
    {"input_gate": deltafx.InputGate(6, window=5, noise=3, drift=10, weak=0.5, reach=2, neighbours=4)},
    {"input_gate": "auto"},
    {"mode": "balanced", "refresh_within": 12},
]


class Network(nn.Module):
    """Every family of kernels: odd channels, groups, strides, a gate, a concatenation, an upsampled branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm2d(20)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.grouped = nn.Conv2d(20, 30, 3, padding=2, dilation=2, groups=5)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(30, 7, 1), nn.SiLU(), nn.Conv2d(7, 30, 1))
        self.down = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(30, 13, 1), nn.Hardswish())
        self.up = nn.ConvTranspose2d(13, 11, 4, stride=2, padding=1)
        self.head = nn.Linear(41, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.grouped(torch.relu(self.depthwise(x) + x))
        x = x * torch.sigmoid(self.gate(x))
        small = self.down(x)
        x = torch.cat([x, self.up(small)], 1)
        return nn.functional.interpolate(x, scale_factor=2, mode="bilinear"), self.head(x.mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().eval()


def pictures(count: int = 12) -> list[Tensor]:
    return list(clip(count, 44, 60))


def states(dm: Any) -> dict[str, Tensor]:
    nodes = dm.runtime.plans[0].nodes
    return {f"{path}[{i}]": leaf.value for path, state in nodes.items() for i, leaf in enumerate(state.leaves)}


def masks(dm: Any) -> dict[str, Tensor]:
    nodes = dm.runtime.plans[0].nodes
    return {f"{path}[{i}]": leaf.mask for path, state in nodes.items() for i, leaf in enumerate(state.leaves)}


def assert_decides_alike(dm: Any, reference: Any, frames: list[Tensor]) -> None:
    """Both propagate the same pixels of all frames; a stream is reset on the way."""
    for number, picture in enumerate(frames):
        ours, theirs = dm(picture), reference(picture)
        if number == 9:
            deltafx.reset(dm, streams=[1])
            deltafx.reset(reference, streams=[1])
        assert relative_error(list(ours), list(theirs)) < 1e-3
        for path, mask in masks(dm).items():  # a pixel just at its threshold may fall on either side
            different = (mask != masks(reference)[path]).float().mean()
            assert different <= 0.01, f"frame {number}, {path}: {different:.1%} of the mask"
