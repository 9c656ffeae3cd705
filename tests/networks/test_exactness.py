"""In exact mode a converted network is as close to the float64 network as the dense one is.

The bars are relative to the error of the dense float32 network, because folding batch norm and gathering pixels move
rounding without making it worse.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import deltafx
from deltafx.capture import capture
from deltafx.flops import flop_counter
from deltafx.measure import relative_error, tensors_of
from deltafx.testing import clip
from tests.networks.networks import each, network

SIZE, SIZES = 96, {"inception_v3": 128}  # its last maps would be single pixels, which amplify rounding
# By backend and payload: the error may be this many times the dense network's, plus this much. Differences add up the
# rounding of each frame.
BARS = {("cpu", "value"): (3, 1e-6), ("reference", "value"): (3, 1e-6), ("reference", "difference"): (10, 1e-5)}

Outputs = list[list[Tensor]]  # by frame: the tensors of the output


@dataclass(frozen=True)
class Dense:
    """A dense network and what it gives for each frame of a clip."""

    name: str
    model: nn.Module
    frames: list[Tensor]
    outputs: Outputs
    exact: Outputs  # in float64

    def errors(self, outputs: Outputs) -> list[float]:
        """By frame, relative to float64; infinite where something other than the same elements is not a number."""
        return [relative_error(got, want) for got, want in zip(outputs, self.exact, strict=True)]


def run(model: nn.Module, frames: list[Tensor]) -> Outputs:
    with torch.no_grad():
        return [tensors_of(model(frame)) for frame in frames]


def run_in_float64(model: nn.Module, frames: list[Tensor], together: int = 5) -> Outputs:
    """Several frames in one batch: float64 has no fast convolution, and its results do not depend on the batch."""
    model = copy.deepcopy(model).double()
    outputs: Outputs = []
    for start in range(0, len(frames), together):
        part = torch.cat(frames[start : start + together]).double()
        (whole,) = run(model, [part])
        outputs += zip(*(tensor.split(len(frames[0])) for tensor in whole), strict=True)
    return [list(output) for output in outputs]


@functools.lru_cache(maxsize=1)  # the tests of a network follow each other: tests/conftest.py
def dense_of(name: str) -> Dense:
    size = SIZES.get(name, SIZE)
    model, frames = network(name, size, size), list(clip(25, size, size))
    return Dense(name, model, frames, run(model, frames), run_in_float64(model, frames))


@pytest.fixture(params=each())
def dense(request: Any) -> Dense:
    return dense_of(request.param)


@pytest.mark.parametrize(("name", "backend", "payload"), each(*BARS))
def test_error_is_that_of_the_dense_network(name, backend, payload):
    dense = dense_of(name)
    dm = deltafx.convert(dense.model, backend=backend, payload=payload)
    got = run(dm, dense.frames)
    nans = [[tensor.isnan() for tensor in output] for output in got]
    for number, output in enumerate(dense.outputs):
        for ours, theirs in zip(nans[number], output, strict=True):
            assert torch.equal(ours, theirs.isnan()), f"frame {number}: not NaN where the dense network is"

    times, plus = BARS[backend, payload]
    for number, (ours, theirs) in enumerate(zip(dense.errors(got), dense.errors(dense.outputs), strict=True)):
        assert ours <= times * theirs + plus, (
            f"frame {number}: {ours:.1e}, the dense network {theirs:.1e}; "
            f"{deltafx.verify(dense.model, dm, dense.frames[: number + 1], tolerance=times * theirs + plus)}"
        )


def test_macs_are_in_delta_form(dense):
    dm = deltafx.convert(dense.model)
    dm(dense.frames[0])
    report = deltafx.report(dm)
    with torch.no_grad(), flop_counter() as flops:
        dense.model(dense.frames[0])
    totals = report.totals
    assert totals["macs_dense"] == flops.get_total_flops() // 2, "some MACs are not counted"
    assert totals["macs_delta_form"] >= 0.99 * totals["macs_dense"]

    dense_nodes = [node for node in report.nodes if node.kernel == "dense"]
    assert len(dense_nodes) == totals["dense_nodes"]
    assert sum(node.macs_dense for node in dense_nodes) == totals["macs_dense"] - totals["macs_delta_form"]
    assert all(node.reason and f"{node.path} ({node.operator}): {node.reason}" in str(report) for node in dense_nodes)


def test_activations_are_near_1(dense):
    """What the bars rest on: rounding is neither drowned nor amplified."""

    class Measure(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor) and n.op != "get_attr":
                sizes[n.name] = result.square().mean().sqrt().item()
            return result

    for number in (0, 3, 12, 20):  # the first, with noise, one stream black, after everything
        sizes: dict[str, float] = {}
        with torch.no_grad():
            Measure(capture(dense.model)).run(dense.frames[number])
        # The ends of many branches are the smallest: each is scaled by the root of how many there are.
        assert not {name: size for name, size in sizes.items() if not 0.05 < size < 10}
    assert max(dense.errors(dense.outputs)) < 1e-4
