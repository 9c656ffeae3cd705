"""The networks of `benchmarks.host`, for whichever deltafx can be imported.

Run as `python -m benchmarks.host_cases CALLS BACKEND`.

For each, frames in which nothing changed: microseconds until the call returns, and the operators that Python calls.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models

import deltafx

WARM_UP = 20  # in these, programs and graphs are made


class Three(nn.Module):
    """Three pictures go in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 8, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x) + self.second(y) + self.third(z)))


class Named(nn.Module):
    """A dictionary of three tensors comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.boxes, self.scores, self.points = (nn.Conv2d(8, n, 1) for n in (4, 1, 10))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = torch.relu(self.stem(x))
        return {name: getattr(self, name)(features) for name in ("boxes", "scores", "points")}


class Sizes(nn.Module):
    """Decides by sizes, so that no trace reaches through: it converts in parts, of which it is the only one."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = three_nodes()

    def forward(self, x: Tensor) -> Tensor:
        return self.nodes(x) if x.shape[-1] > 8 else x


def three_nodes() -> nn.Module:
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), *pooled)


CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # a network, how many inputs it has, and their size
    "one input": (three_nodes, 1, 16),
    "the same, converted in parts": (Sizes, 1, 16),
    "three inputs": (Three, 3, 16),
    "a dictionary of outputs": (Named, 1, 16),
    "mobilenet_v2": (lambda: models.mobilenet_v2(weights=None), 1, 64),
}


class Calls(TorchDispatchMode):
    """Within it, the operators that reach the dispatcher from Python are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def measure(rounds: int, backend: str) -> Iterator[dict[str, Any]]:
    device = "cuda" if backend == "cuda" else "cpu"
    for name, (make, inputs, size) in CASES.items():
        torch.manual_seed(0)
        dm = deltafx.convert(make().eval().to(device), backend=backend)
        frames = [torch.randn(1, 3, size, size, device=device) for _ in range(inputs)]
        for _ in range(WARM_UP):
            dm(*frames)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            dm(*frames)
            seconds.append(time.perf_counter() - start)
            if device == "cuda":
                torch.cuda.synchronize()
        with Calls() as calls:
            dm(*frames)
        yield {"case": name, "microseconds": [1e6 * each for each in seconds], "operators": calls.names}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        print(json.dumps(list(measure(int(sys.argv[1]), sys.argv[2]))))
