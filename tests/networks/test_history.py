"""With value payload the past leaves no trace, and the streams know nothing of each other: bit for bit."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import deltafx
from deltafx.measure import relative_error, tensors_of
from deltafx.testing import clip
from tests.networks.networks import each, network

SIZE = (77, 91)  # odd, and not square
# Dense runs of a layer round in another order than the compiled kernels do.
BACKENDS = {"cpu": {"dense_switch": False}, "reference": {}}
LONG = {("resnet18", "cpu"): 500, ("mobilenet_v2", "cpu"): 500, ("shufflenet_v2_x1_0", "cpu"): 500}
CASES = each(("cpu", "value"), ("reference", "value"))


@functools.lru_cache(maxsize=1)  # the tests of a network follow each other: tests/conftest.py
def named(name: str) -> nn.Module:
    return network(name, *SIZE)


def flipped(result: Any) -> list[Tensor]:
    return [tensor.flip(0) for tensor in tensors_of(result)]


def convert(model: nn.Module, backend: str) -> nn.Module:
    return deltafx.convert(model, backend=backend, options=BACKENDS[backend])


@pytest.mark.parametrize(("name", "backend", "payload"), CASES)
def test_history_leaves_no_trace(name, backend, payload):
    model = named(name)
    dm = convert(model, backend)
    for frame in clip(LONG.get((name, backend), 40), *SIZE):
        got = tensors_of(dm(frame))
    assert all(tensor.isfinite().all() for tensor in got)
    assert relative_error(got, tensors_of(convert(model, backend)(frame))) == 0


@torch.no_grad()
@pytest.mark.parametrize(("name", "backend", "payload"), CASES)
def test_streams_may_change_places(name, backend, payload):
    model = named(name)
    dm, other = convert(model, backend), convert(model, backend)
    dense = fx.Interpreter(dm)
    for frame in list(clip(20, *SIZE))[10:]:
        error = relative_error(tensors_of(dm(frame)), flipped(other(frame.flip(0))))
        # Some of PyTorch's gates round by the place in the batch (1x1 convolutions of one pixel); so then does the
        # dense network. The compiled kernels do not.
        if error > 0:
            assert backend == "reference"
            assert error <= relative_error(tensors_of(dense.run(frame)), flipped(dense.run(frame.flip(0))))
