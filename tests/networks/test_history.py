"""With value payload the past leaves no trace, and the streams know nothing of each other: bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import deltafx
from deltafx.measure import relative_error, tensors_of
from deltafx.testing import clip
from tests.networks.networks import NETWORKS, network

SIZE = (97, 131)  # odd, and not square
LONG = {"resnet18": 500, "mobilenet_v2": 500, "shufflenet_v2_x1_0": 500}


@pytest.fixture(scope="module", params=NETWORKS)
def named(request: Any) -> tuple[str, nn.Module]:
    return request.param, network(request.param, *SIZE)


def flipped(result: Any) -> list[Tensor]:
    return [tensor.flip(0) for tensor in tensors_of(result)]


def test_history_leaves_no_trace(named):
    name, model = named
    dm = deltafx.convert(model)
    for frame in clip(LONG.get(name, 40), *SIZE):
        got = tensors_of(dm(frame))
    assert all(tensor.isfinite().all() for tensor in got)
    assert relative_error(got, tensors_of(deltafx.convert(model)(frame))) == 0


@torch.no_grad()
def test_streams_may_change_places(named):
    _, model = named
    dm, other = deltafx.convert(model), deltafx.convert(model)
    dense = fx.Interpreter(dm)
    for frame in list(clip(20, *SIZE))[10:]:
        error = relative_error(tensors_of(dm(frame)), flipped(other(frame.flip(0))))
        # Some gates round by the place in the batch (1x1 convolutions of one pixel); so then does the dense network.
        if error > 0:
            assert error <= relative_error(tensors_of(dense.run(frame)), flipped(dense.run(frame.flip(0))))
