"""Other thresholds for a converted network: a plan that is kept does what a new one would."""

import pytest
import torch

import deltafx
from deltafx.gate import AUTO
from deltafx.retune import refresh, restored, retune
from deltafx.truncation import Threshold
from tests.test_calibrate import deep, noisy

THRESHOLDS = {"stem": 0.1, "layers.1": 0.3, "head": 0.05}


@torch.no_grad()
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("before", [0.2, {"head": 0.2}], ids=["all withhold", "another set withholds"])
def test_the_results_are_those_of_a_network_converted_so(backend, before):
    model, frames = deep(), noisy(9)
    dm = deltafx.convert(model, backend=backend, threshold=before, input_gate=deltafx.InputGate(2), refresh_every=3)
    for frame in frames[:5]:
        dm(frame)
    wanted = deltafx.convert(model, backend=backend, threshold=THRESHOLDS, input_gate=AUTO, refresh_every=4)
    refresh(dm, 4, None)
    retune(dm, {path: Threshold(value) for path, value in THRESHOLDS.items()}, "rms", AUTO)
    for frame in frames:
        assert torch.equal(dm(frame), wanted(frame))


@torch.no_grad()
def test_a_plan_is_kept_while_the_same_nodes_withhold():
    dm = deltafx.convert(deep(), mode="balanced")
    dm(noisy(1)[0])
    plan = dm.runtime.plans[0]
    retune(dm, dict.fromkeys((m.path for m in dm.modules() if hasattr(m, "truncation")), Threshold(0.3)), "rms", AUTO)
    assert dm.runtime.plans == [plan]
    retune(dm, {}, "rms", AUTO)
    assert dm.runtime.plans == []


@torch.no_grad()
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_what_was_touched_is_computed_anew_as_often_as_is_said_last(backend):
    model, frames = deep(), noisy(9)
    dm = deltafx.convert(model, backend=backend, mode="fast", refresh_touched=30)
    for frame in frames[:5]:
        dm(frame)
    wanted = deltafx.convert(model, backend=backend, mode="fast", refresh_touched=3)
    with restored(dm):
        refresh(dm, None, 3)
        deltafx.reset(dm)
        for frame in frames:
            assert torch.equal(dm(frame), wanted(frame))
    assert dm.runtime.settings.refresh_touched == dm.runtime.plans[0].background.every == 30


@torch.no_grad()
def test_what_was_touched_is_not_computed_anew_where_it_never_was():
    dm = deltafx.convert(deep(), threshold=0.2)
    dm(noisy(1)[0])
    refresh(dm, None, 3)
    assert dm.runtime.settings.refresh_touched is None


@torch.no_grad()
def test_refreshes_are_restored():
    dm = deltafx.convert(deep(), mode="balanced", refresh_every=7)
    dm(noisy(1)[0])
    with restored(dm):
        refresh(dm, 2, None)
    assert dm.runtime.settings.refresh_every == 7


@torch.no_grad()
def test_after_a_reset_refreshes_are_counted_from_it():
    dm = deltafx.convert(deep(), mode="balanced", refresh_every=4)
    frame = noisy(1)[0]
    for _ in range(3):
        dm(frame)
    deltafx.reset(dm)
    macs = []
    for _ in range(6):
        dm(frame)
        macs.append(deltafx.report(dm).totals["macs"])
    assert [each > 0 for each in macs] == [True, False, False, False, True, False]
