"""Other dtypes than float32, converted in them or moved to them later, hold to the rounding of their dtype."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltafx
from deltafx.measure import relative_error, tensors_of
from deltafx.testing import clip
from tests.networks.networks import network

SIZE = (61, 67)
# By backend and payload: how many times the dense network's the error may be. Differences add up the rounding of each
# frame. The compiled backend leaves float16 and float64 to the reference kernels.
TIMES = {("cpu", "value"): 3, ("reference", "value"): 3, ("reference", "difference"): 10}


@pytest.fixture(scope="module", params=("resnet18", "squeezenet1_1"))
def model(request: Any) -> nn.Module:
    return network(request.param, *SIZE)


def frames(dtype: torch.dtype) -> list[Tensor]:
    """The part of the clip with the black frames, the NaN frames and the recovery."""
    return [frame.to(dtype) for frame in clip(20, *SIZE)][10:]


@torch.no_grad()
@pytest.mark.parametrize(("backend", "payload"), TIMES)
def test_float64_is_exact_to_float64(model, backend, payload):
    dense = copy.deepcopy(model).double()
    dm = deltafx.convert(dense, backend=backend, payload=payload)
    for frame in frames(torch.float64):
        assert relative_error(tensors_of(dm(frame)), tensors_of(dense(frame))) < 1e-13


@torch.no_grad()
@pytest.mark.parametrize("moved", [False, True], ids=["converted", "moved"])
@pytest.mark.parametrize(("backend", "payload"), TIMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_error_is_that_of_the_dense_network_in_the_dtype(model, dtype, backend, payload, moved):
    exact, dense = copy.deepcopy(model).double(), copy.deepcopy(model).to(dtype)
    dm = deltafx.convert(model if moved else dense, backend=backend, payload=payload)
    if moved:
        dm(frames(torch.float32)[0])
        dm.to(dtype)
    for number, frame in enumerate(frames(dtype)):
        want = tensors_of(exact(frame.double()))
        ours, theirs = (relative_error(tensors_of(run(frame)), want) for run in (dm, dense))
        assert ours <= TIMES[backend, payload] * theirs, f"frame {number}: {ours:.1e}, the dense network {theirs:.1e}"
