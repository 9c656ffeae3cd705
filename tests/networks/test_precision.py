"""Other dtypes than float32, converted from the start or moved afterwards, hold to the rounding of their dtype."""

from __future__ import annotations

import copy

import pytest
import torch

import deltafx
from deltafx.measure import relative_error, tensors_of
from deltafx.testing import clip
from tests.networks.networks import network

SIZE = (61, 67)
NETWORKS = ("resnet18", "squeezenet1_1")
# How much larger than the dense network's the error may be. Differences add up the rounding of each frame.
TIMES = {"value": 3, "difference": 10}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    return network(request.param, *SIZE)


def frames(dtype: torch.dtype) -> list[torch.Tensor]:
    """The part of the clip with the black frames, the NaN frames and the recovery."""
    return [frame.to(dtype) for frame in clip(20, *SIZE)][10:]


@pytest.mark.parametrize("payload", TIMES)
def test_float64_is_exact_to_float64(model, payload):
    dense = copy.deepcopy(model).double()
    dm = deltafx.convert(dense, payload=payload)
    with torch.no_grad():
        for frame in frames(torch.float64):
            assert relative_error(tensors_of(dm(frame)), tensors_of(dense(frame))) < 1e-12


@pytest.mark.parametrize("payload", TIMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_error_is_that_of_the_dense_network_in_its_dtype(model, dtype, payload):
    exact, dense = copy.deepcopy(model).double(), copy.deepcopy(model).to(dtype)
    dm = deltafx.convert(model, payload=payload)
    dm(frames(torch.float32)[0])
    dm.to(dtype)
    with torch.no_grad():
        for frame in frames(dtype):
            want = tensors_of(exact(frame.double()))
            ours, theirs = relative_error(tensors_of(dm(frame)), want), relative_error(tensors_of(dense(frame)), want)
            assert ours <= TIMES[payload] * theirs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_converted_half_precision_network_is_one_moved_to_it(model, dtype):
    moved, converted = deltafx.convert(model).to(dtype), deltafx.convert(copy.deepcopy(model).to(dtype))
