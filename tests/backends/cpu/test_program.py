"""A frame as one compiled program does what the graph does node by node: bits, masks and counts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltafx
from benchmarks.host_cases import Calls
from deltafx.measure import tensors_of
from deltafx.settings import Threshold
from deltafx.state import FRAMES
from deltafx.testing import blobs, force_masks
from tests.backends.network import SETTINGS, masks, network, pictures, states
from tests.small import WithIsland, frame, small, touched

pytest.importorskip("deltafx._cpu")
from deltafx.backends.cpu import convolution

NODE_BY_NODE = {"frame_program": False}


def pair(model: nn.Module, **settings: Any) -> tuple[Any, Any]:
    options = settings.pop("options", {})
    return (
        deltafx.convert(model, backend="cpu", options=options, **settings),
        deltafx.convert(model, backend="cpu", options={**options, **NODE_BY_NODE}, **settings),
    )


def ran_as_program(dm: Any) -> bool:
    plan = dm.runtime.plans[0]
    return plan.frame_program is not None and plan.frame_program.last_frame == plan.frame - 1


def assert_same_frame(dm: Any, stepped: Any, picture: Tensor) -> None:
    for ours, theirs in zip(tensors_of(dm(picture)), tensors_of(stepped(picture)), strict=True):
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
    for held in (states, masks):
        for path, tensor in held(stepped).items():
            assert torch.equal(held(dm)[path].nan_to_num(), tensor.nan_to_num()), path
    for ours, theirs in zip(*(each.runtime.plans[0].nodes.values() for each in (dm, stepped)), strict=True):
        for a, b in zip(ours.leaves, theirs.leaves, strict=True):
            assert torch.equal(a.tally, b.tally), ours.path
            assert a.threshold == b.threshold or b.threshold is None, ours.path  # it was not computed yet
    assert not ran_as_program(stepped)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_does_what_the_graph_does(settings: dict[str, Any]) -> None:
    dm, stepped = pair(network(), **settings)
    for number, picture in enumerate(pictures(18)):
        assert_same_frame(dm, stepped, picture)
        assert ran_as_program(dm) == (number > 0)
        if number == 9:
            for each in (dm, stepped):
                deltafx.reset(each, streams=[1])


def test_what_is_prescribed_may_change_and_end() -> None:
    dm, stepped = pair(network(), threshold=0.1)
    first, second, *others = pictures(6)
    assert_same_frame(dm, stepped, first)
    for share in (0.05, 0.3):
        mask = blobs(44, 60, share, size=8)
        with force_masks(dm, mask), force_masks(stepped, mask):
            assert_same_frame(dm, stepped, second)
            assert_same_frame(dm, stepped, first)
    for picture in others:
        assert_same_frame(dm, stepped, picture)
    assert ran_as_program(dm)


def test_layers_that_are_faster_densely_run_so(monkeypatch: Any) -> None:
    monkeypatch.setattr(convolution, "dense_share", lambda *_: 0.2)
    dm, stepped = pair(network())
    for picture in pictures(6):
        assert_same_frame(dm, stepped, picture)
    assert ran_as_program(dm)


def test_what_has_no_kernel_runs_at_its_place() -> None:
    dm, stepped = pair(small(WithIsland))
    for number in range(4):
        assert_same_frame(dm, stepped, touched(frame(), stream=number % 2, amount=number))
    assert ran_as_program(dm)


def test_a_program_is_timed(monkeypatch: Any) -> None:
    monkeypatch.setattr(
        convolution, "dense_share", lambda *_: 0.2
    )  # layers that run densely, from Python, are timed as well
    dm = deltafx.convert(network(), backend="cpu", options={"profile": True})
    for picture in pictures(4):
        dm(picture)
    assert ran_as_program(dm)
    last = {node.path: node.milliseconds for node in deltafx.report(dm).nodes if node.kernel != "constant"}
    assert all(0 < time < 1000 for time in last.values())
    sums = {node.path: 4 * node.milliseconds_mean for node in deltafx.report(dm).nodes if node.path in last}
    dm(pictures(1)[0])
    assert ran_as_program(dm)
    for node in deltafx.report(dm).nodes:
        if node.path in last:
            assert 5 * node.milliseconds_mean == pytest.approx(sums[node.path] + node.milliseconds)
            assert sums[node.path] >= last[node.path]
    deltafx.reset(dm)
    assert deltafx.report(dm)["stem"].milliseconds_mean is None


def test_without_profiling_a_program_has_no_times() -> None:
    dm = deltafx.convert(small(), backend="cpu")
    for _ in range(3):
        dm(frame())
    assert ran_as_program(dm)
    assert dm.runtime.plans[0].frame_program.program.take_times() == [(0.0, 0.0)] * 3


def test_hooks_see_every_frame() -> None:
    dm = deltafx.convert(small(), backend="cpu")
    dm(frame())
    dm(frame())
    assert ran_as_program(dm)
    seen: list[int] = []
    hook = dm.get_submodule("second").register_forward_hook(lambda *args: seen.append(1))
    dm(frame())
    dm(frame())
    assert len(seen) == 2
    assert not ran_as_program(dm)
    hook.remove()
    dm(touched(frame()))
    assert ran_as_program(dm)


def test_python_calls_one_operator_for_each_input_and_output() -> None:
    dm = deltafx.convert(network(), backend="cpu")
    for picture in pictures(4):
        dm(picture)
    with Calls() as calls:
        outputs = tensors_of(dm(picture))
    assert ran_as_program(dm)
    assert calls.names == ["deltafx.dense_to_delta.default", *["aten.clone.default"] * len(outputs)]


def test_another_threshold_counts_from_the_next_frame_on() -> None:
    dm = deltafx.convert(small(), backend="cpu", threshold=0.1)
    for _ in range(2):
        dm(frame())
    node = dm.get_submodule("second")
    node.truncation = dataclasses.replace(node.truncation, threshold=Threshold(1e9, absolute=True))
    dm(touched(frame()))
    leaf = dm.runtime.plans[0].nodes["second"].leaves[0]
    assert leaf.threshold == 1e9
    assert not leaf.mask.any()
    assert ran_as_program(dm)


def test_a_node_that_missed_a_frame_is_refreshed() -> None:
    dm = deltafx.convert(small(), backend="cpu")
    for _ in range(2):
        dm(frame())
    plan = dm.runtime.plans[0]
    plan.nodes["second"].last_frame -= 1
    plan.frame_program.last_frame -= 1
    dm(frame())
    leaf = plan.nodes["second"].leaves[0]
    assert bool(leaf.mask.all())
    assert leaf.tally[FRAMES] == 3
    dm(frame())
    assert ran_as_program(dm)
    assert not leaf.mask.any()
