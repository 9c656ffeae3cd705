"""What a calibration measures with: errors and how far chance moves them."""

import math

import pytest
import torch

import deltafx
from deltafx.calibrate import direction
from deltafx.calibration import Measured
from deltafx.metrics import Relative, metric_of
from deltafx.retune import truncation_points
from deltafx.starts import PAPER, by_sensitivity, starts
from deltafx.trials import HIGHEST, SAMPLED, UNKNOWN, Errors, Trials, Wanted, level, samples_of, together
from tests.test_calibrate import deep, noisy


def errors_of(found, frames):
    """Of a metric that is given each frame's error."""
    errors = Errors(metric_of(lambda got, want: got.item(), None), frames)
    for each in found:
        errors.add(torch.tensor(each), Wanted.of(errors.metric, torch.tensor(1.0)))
    return errors


def test_the_deviation_is_that_of_blocks():
    errors = errors_of([0.1] * 4 + [0.3] * 4 + [0.1] * 4 + [0.3] * 4, 16)
    assert errors.whole.error == pytest.approx(0.2)
    assert errors.deviation == pytest.approx(0.2 / math.sqrt(3) / 2)


def test_errors_that_are_the_same_everywhere_deviate_by_nothing():
    assert errors_of([0.2] * 40, 40).deviation == pytest.approx(0)


def test_the_deviation_of_few_frames_is_a_guess():
    assert errors_of([0.2, 0.4], 2).deviation == pytest.approx(UNKNOWN * 0.3)


def test_every_output_counts_by_its_own_size():
    """Though the metric says that nothing is wrong with the small one."""
    metric = metric_of(lambda got, want: (got[0] - want[0]).abs().sum().item(), None)
    want = [torch.full((4,), 100.0), torch.full((4,), 0.01)]
    distances = []
    for which in (0, 1):
        errors, got = Errors(metric, 1), [each.clone() for each in want]
        got[which] *= 1.1
        errors.add(got, Wanted.of(metric, want))
        distances.append((errors.of_outputs[which][0] / errors.of_outputs[which][1]).item())
        assert errors.distance > 0
    assert distances == pytest.approx([0.01, 0.01], rel=1e-3)


def test_samples_reach_every_channel():
    (found,) = samples_of(torch.arange(124 * 72 * 96).view(1, 124, 72, 96).float())
    assert SAMPLED / 2 < len(found) < 2 * SAMPLED
    assert len((found // (72 * 96)).unique()) == 124
    assert len((found % 96).unique()) == 96


def test_errors_of_several_runs_add_up():
    parts = [Measured(1, 0.1, 5, {}, 30, deviation=0.03), Measured(1, 0.4, 5, {}, 10, deviation=0.04)]
    error, deviation = together(*parts)
    assert error == pytest.approx(0.175)
    assert deviation == pytest.approx(math.hypot(0.75 * 0.03, 0.25 * 0.04))


def test_a_direction_saves_as_much():
    macs, distances = {"a": -1.0, "b": -0.5, "c": 0.0}, {"a": 1.0, "b": 2.0, "c": 0.5}
    found = direction(macs, distances)
    assert sum(macs[path] * found[path] for path in macs) == pytest.approx(0)
    assert sum(distances[path] * found[path] for path in macs) < 0
    assert max(map(abs, found.values())) == 1
    assert direction({"a": 0.0}, {"a": 1.0}) == {}


def trials_of(**settings):
    dm = deltafx.convert(deep(), **settings)
    frames = [(frame,) for frame in noisy(12)]
    return Trials(dm, frames[:8], frames[8:], Relative(), lambda what: None)


def starts_of(trials):
    return list(starts(trials, trials.dm.runtime.settings, truncation_points(trials.dm), lambda what: None))


def test_begins_with_three_rules():
    first, second, paper = starts_of(trials_of())
    assert min(first.shape.values()) > 0
    assert second.shape["head"] < second.shape["layers.1"]
    assert (paper.norm, paper.gate) == ("max", PAPER)
    assert paper.shape["head"] == 0 < paper.shape["stem"]


@pytest.mark.parametrize("settings", [{"norm": "max"}, {"input_gate": deltafx.InputGate(3)}])
def test_does_not_begin_with_another_norm_or_gate_than_is_asked_for(settings):
    found = starts_of(trials_of(**settings))
    assert len(found) == 2
    for start in found:
        assert start.norm == settings.get("norm", "rms")
        assert start.gate == settings.get("input_gate", deltafx.gate.AUTO)


def test_the_most_sensitive_withhold_least():
    shape = by_sensitivity(dict.fromkeys("abc"), {"a": 4.0, "b": 1.0})
    assert shape["a"] < shape["b"]
    assert shape["c"] == pytest.approx(0.3)  # unknown: the average
    assert by_sensitivity(dict.fromkeys("ab"), {}) == {"a": 0.3, "b": 0.3}


def test_none_is_far_above_the_others():
    assert level({"a": 0.0, "b": 0.1, "c": 0.2, "d": 9.0}) == pytest.approx(
        {"a": 0, "b": 0.1, "c": 0.2, "d": HIGHEST * 0.2}
    )


def test_thresholds_of_nothing_stay_so():
    assert level({"a": 0.0, "b": 0.0}) == {"a": 0.0, "b": 0.0}
    assert level({}) == {}
