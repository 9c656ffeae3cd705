"""Calibration: what it finds, what it leaves alone, how it is kept, and for which network it is."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import deltafx
from deltafx.calibrate import Search
from deltafx.calibration import Measured
from deltafx.gate import AUTO
from deltafx.metrics import Relative
from deltafx.sensitivity import sensitivities
from deltafx.testing import scale_weights
from deltafx.trials import Trials


class Deep(nn.Module):
    """Six layers, and a residual."""

    def __init__(self, width=12):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.head = nn.Conv2d(width, 5, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return self.head(x)


def deep(width=12):
    torch.manual_seed(0)
    return scale_weights(Deep(width), noisy(3)[1].repeat(2, 1, 1, 1) + torch.randn(2, 3, 40, 56))


def noisy(count=18, size=(40, 56), seed=0):
    """A square moves over a textured background, under noise; 0..255."""
    generator = torch.Generator().manual_seed(seed)
    background = 60 + 120 * torch.rand(1, 3, *size, generator=generator)
    frames = []
    for index in range(count):
        frame = background + 2 * torch.randn(background.shape, generator=generator)
        frame[..., 10:18, 2 * index : 2 * index + 8] += 50
        frames.append((frame.clamp(0, 255) / 255 - 0.45) / 0.225)
    return frames


def found(dm):
    return {path: node.truncation.threshold.value for path, node in points(dm).items()}


def points(dm):
    return {m.path: m for m in dm.modules() if getattr(m, "truncation", None) is not None}


@pytest.fixture(scope="module")
def model():
    return deep()


@pytest.fixture(scope="module")
def calibration(model):
    return deltafx.calibrate(deltafx.convert(model), noisy(), max_error=0.1)


# ---------------------------------------------------------------------------------------------------------------------
# What it finds


def test_saves_within_the_budget_on_frames_that_it_has_not_seen(model, calibration):
    assert calibration.predicted.error <= 0.1
    assert calibration.verified.error <= 0.1
    dm = deltafx.convert(model, threshold=calibration)
    later = noisy(24)[16:]
    comparison = deltafx.compare(model, dm, later)
    error = Relative()
    deltafx.reset(dm)
    for frame in later:
        with torch.no_grad():
            error.add(dm(frame), model(frame))
    assert error.error <= 0.13
    assert comparison.total["macs_ratio"] > 2
    assert calibration.verified.macs_ratio > 2


def test_more_error_saves_more(model, calibration):
    tight = deltafx.calibrate(deltafx.convert(model), noisy(), max_error=0.02, rounds=0)
    assert tight.verified.error < calibration.verified.error
    assert tight.verified.macs_ratio < calibration.verified.macs_ratio


def test_saves_what_was_asked_for(model):
    found = deltafx.calibrate(deltafx.convert(model), noisy(), target_speedup=3.0, rounds=0)
    assert 2.9 <= found.predicted.macs_ratio <= 3.6


def test_does_not_spend_the_budget_once_the_target_is_reached(model):
    found = deltafx.calibrate(deltafx.convert(model), noisy(), max_error=0.5, target_speedup=2.0, rounds=0)
    assert found.predicted.macs_ratio >= 2
    assert found.predicted.error < 0.3


def test_says_so_where_the_target_cannot_be_reached(model):
    found = deltafx.calibrate(deltafx.convert(model), noisy(), max_error=1e-3, target_speedup=50.0, rounds=0)
    assert "not reached" in str(found)


def test_a_gate_that_withholds_too_much_by_itself_is_tightened(model):
    """Thresholds of 0 would not do: what the gate withholds is the error."""
    with_gate = deltafx.convert(model, input_gate="auto")
    error = Relative()
    for frame in noisy():
        with torch.no_grad():
            error.add(with_gate(frame), model(frame))
    found = deltafx.calibrate(deltafx.convert(model), noisy(), max_error=0.7 * error.error, rounds=0)
    assert found.input_gate.threshold < AUTO.threshold
    assert found.predicted.error <= 0.7 * error.error


def test_refreshes_are_chosen_by_what_they_save(model):
    dm = deltafx.convert(model, refresh_every=2)
    found = deltafx.calibrate(dm, noisy(), max_error=0.1, rounds=0, refreshes=(2, 6, None))
    assert found.refresh_every is None  # nothing stays behind in a clip as short as this
    assert found.verified.macs_ratio > 2
    assert dm.runtime.settings.refresh_every == 2


def test_a_refresh_counts_as_often_as_it_will(model):
    """Of 12 frames, one is in full with either: their number is what it costs in the long run."""
    ratios = []
    for every in (7, 11):
        dm = deltafx.convert(model, threshold=0.3, refresh_every=every)
        found = deltafx.calibrate(dm, noisy(), target_speedup=100.0, max_error=1.0, rounds=0)
        ratios.append(found.predicted.macs_ratio)
    assert ratios[0] < 7
    assert 7 < ratios[1] < 11


def test_every_truncation_point_gets_a_threshold(model, calibration):
    assert calibration.thresholds.keys() == points(deltafx.convert(model)).keys()
    assert all(value > 0 for value in calibration.thresholds.values())


def test_the_same_frames_give_the_same_calibration(model, calibration):
    again = deltafx.calibrate(deltafx.convert(model), noisy(), max_error=0.1)
    assert again == calibration


def test_keeps_the_gate_and_the_norm_of_the_network(model):
    gate = deltafx.InputGate(7, window=3)
    dm = deltafx.convert(model, input_gate=gate, norm="max")
    found = deltafx.calibrate(dm, noisy(9), rounds=0)
    assert (found.input_gate, found.norm) == (gate, "max")


def test_leaves_the_network_as_it_was(model):
    dm = deltafx.convert(model, mode="balanced", threshold={"stem": 0.3})
    before, gate = found(dm), dm.get_submodule("dense_to_delta.x").gate
    expected = [dm(frame).clone() for frame in noisy(4)]
    deltafx.calibrate(dm, noisy(9), rounds=0)
    assert found(dm) == before
    assert dm.get_submodule("dense_to_delta.x").gate == gate
    for frame, wanted in zip(noisy(4), expected):
        torch.testing.assert_close(dm(frame), wanted)


def test_leaves_the_network_as_it_was_after_an_error(model):
    dm = deltafx.convert(model)

    def fails(got, want):
        raise RuntimeError("no such metric")

    with pytest.raises(RuntimeError, match="no such metric"):
        deltafx.calibrate(dm, noisy(9), metric=fails, max_error=0.1)
    assert set(found(dm).values()) == {0.0}


def test_greedy_grows_thresholds_from_the_front_within_the_budget(model):
    dm = deltafx.convert(model, norm="max", input_gate=deltafx.InputGate(16, dilation=7))
    greedy = deltafx.calibrate(dm, noisy(), max_error=0.1, method="greedy")
    assert greedy.predicted.error <= 0.1
    assert greedy.thresholds["head"] == 0  # no activation
    assert max(greedy.thresholds.values()) > 0


def test_a_model_in_parts_is_calibrated(model):
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = deep()

        def forward(self, x):
            out = self.body(x)
            return out if out.mean() > -1e9 else out * 2

    whole = Decides().eval()
    found = deltafx.calibrate(deltafx.convert(whole), noisy(), max_error=0.1, rounds=0)
    dm = deltafx.convert(whole, threshold=found)
    assert deltafx.compare(whole, dm, noisy()).total["macs_ratio"] > 2
    assert found.thresholds.keys() == {f"body.{path}" for path in points(deltafx.convert(model))} or found.thresholds


def test_raw_frames_are_calibrated_on(model):
    raw = [((f * 0.225 + 0.45) * 255).round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0) for f in noisy()]
    preprocess = deltafx.Preprocess(mean=(0.45,) * 3, std=(0.225,) * 3)
    found = deltafx.calibrate(deltafx.convert(model, preprocess=preprocess), raw, max_error=0.1, rounds=0)
    assert found.verified.macs_ratio > 2


# ---------------------------------------------------------------------------------------------------------------------
# Sensitivities


def test_a_sensitivity_is_what_noise_at_a_node_does_to_the_result(model):
    dm = deltafx.convert(model)
    x = noisy(2)[1]
    predicted = sensitivities(dm, [(x,)] * 8)
    generator = torch.Generator().manual_seed(1)

    def add_noise(module, args, out):
        noise = torch.randn(out.shape, generator=generator)
        return out + 0.02 * out.square().mean().sqrt() * noise

    with torch.no_grad():
        wanted = torch.fx.Interpreter(dm).run(x)
        for path in ("stem", "layers.2", "head"):
            hook = dm.get_submodule(path).register_forward_hook(add_noise)
            errors = [(torch.fx.Interpreter(dm).run(x) - wanted).square().sum().item() for _ in range(8)]
            hook.remove()
            measured = sum(errors) / len(errors) / wanted.square().sum().item() / 0.02**2
            assert predicted[path] == pytest.approx(measured, rel=0.3)


class Branches(nn.Module):
    """Two results that differ in nothing but their size."""

    def __init__(self):
        super().__init__()
        self.large, self.small = (nn.Conv2d(3, 4, 3, bias=False) for _ in range(2))
        self.small.weight.data.copy_(self.large.weight / 100)
        self.ends = nn.ModuleList(nn.Conv2d(4, 4, 1, bias=False) for _ in range(2))
        self.ends[1].weight.data.copy_(self.ends[0].weight)

    def forward(self, x):
        return self.ends[0](self.large(x).relu()), self.ends[1](self.small(x).relu())


def test_each_result_counts_by_its_own_size():
    torch.manual_seed(0)
    found = sensitivities(deltafx.convert(Branches().eval()), [(noisy(2)[1],)] * 8)
    assert found["small"] == pytest.approx(found["large"], rel=0.3)


# ---------------------------------------------------------------------------------------------------------------------
# Keeping it


def test_is_the_same_when_saved_and_loaded(model, calibration, tmp_path):
    calibration.save(tmp_path / "deep.json")
    assert deltafx.Calibration.load(tmp_path / "deep.json") == calibration
    dm = deltafx.convert(model, threshold=str(tmp_path / "deep.json"))
    assert found(dm) == calibration.thresholds
    assert dm.get_submodule("dense_to_delta.x").gate == calibration.input_gate


def test_a_given_gate_wins_over_that_of_a_calibration(model, calibration):
    gate = deltafx.InputGate(1)
    dm = deltafx.convert(model, threshold=calibration, input_gate=gate)
    assert dm.get_submodule("dense_to_delta.x").gate == gate


def test_another_network_is_refused_with_a_list_of_what_differs(calibration):
    with pytest.raises(deltafx.ConvertError) as error:
        deltafx.convert(deep(width=10), threshold=calibration)
    text = str(error.value)
    assert "6 of its truncation points differ" in text
    assert "stem: weights" in text
    assert "head: weights" in text


def test_other_weights_are_refused(calibration):
    other = deep()
    other.layers[1].weight.data *= 1.1
    with pytest.raises(deltafx.ConvertError, match=r"1 of its truncation points differ:\n  layers.1: weights of norm"):
        deltafx.convert(other, threshold=calibration)


def test_missing_and_additional_nodes_are_listed(model, calibration):
    fingerprint = dict(calibration.fingerprint)
    fingerprint["tail"] = fingerprint.pop("head")
    with pytest.raises(deltafx.ConvertError) as error:
        deltafx.convert(model, threshold=dataclasses.replace(calibration, fingerprint=fingerprint))
    assert "tail: is not in this network" in str(error.value)
    assert "head: was not calibrated" in str(error.value)


def test_another_dtype_is_the_same_network(model, calibration):
    import copy

    dm = deltafx.convert(copy.deepcopy(model).bfloat16(), threshold=calibration)
    assert found(dm) == calibration.thresholds


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}', '{"format": 1}', "nonsense"])
def test_a_file_that_is_no_calibration_is_refused(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(deltafx.ConvertError, match="not a calibration that can be read"):
        deltafx.Calibration.load(path)


def test_an_unknown_name_is_refused(model):
    with pytest.raises(deltafx.ConvertError, match="unknown calibration 'nonesuch'"):
        deltafx.convert(model, threshold="nonesuch")


def test_is_plain_json(calibration, tmp_path):
    calibration.save(tmp_path / "deep.json")
    record = json.loads((tmp_path / "deep.json").read_text())
    assert record["thresholds"] == calibration.thresholds
    assert isinstance(calibration.frontier[0], Measured)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_error": 0}, "max_error is a number larger than 0"),
        ({"target_speedup": -1}, "target_speedup is a number larger than 0"),
        ({"metric": "accuracy"}, "unknown metric 'accuracy'"),
        ({"metric": lambda a, b: 0.0}, "give max_error or target_speedup"),
        ({"method": "random"}, "method is one of"),
        ({"method": "greedy", "target_speedup": 2}, "greedy method needs max_error"),
        ({"metric": "detection"}, "give postprocess"),
        ({"refreshes": (60, 0)}, "refreshes are numbers of frames"),
    ],
)
def test_arguments_are_checked(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        deltafx.calibrate(deltafx.convert(model), noisy(6), **arguments)


def test_too_few_frames_are_refused(model):
    with pytest.raises(ValueError, match="at least 6 consecutive frames"):
        deltafx.calibrate(deltafx.convert(model), noisy(3))
    with pytest.raises(TypeError, match=r"what deltafx\.convert returned"):
        deltafx.calibrate(model, noisy(6))


def test_tells_what_it_does(model):
    said = []
    deltafx.calibrate(deltafx.convert(model), noisy(6), rounds=1, progress=said.append)
    assert {"dense network", "sensitivities", "screening all thresholds"} <= set(said)


def test_a_network_that_multiplies_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to save"):
        deltafx.calibrate(deltafx.convert(nn.MaxPool2d(2).eval()), noisy(9), max_error=0.1)


def searched(**settings):
    """A search, and a shape of thresholds, over a few frames."""
    dm = deltafx.convert(deep(), **settings)
    frames = [(frame,) for frame in noisy(12)]
    search = Search(Trials(dm, frames[:8], frames[8:], Relative(), lambda what: None), 0.1, None, lambda what: None)
    return search, dict.fromkeys(search.points, 0.2)


@pytest.mark.parametrize("looser_is_better", [True, False])
def test_gates_are_compared_at_the_same_savings(monkeypatch, looser_is_better):
    search, shape = searched()
    search.trials.gate = AUTO
    best = Measured(1.0, 0.01, 5.0, {}, 8, distance=1.0)

    def with_savings(shape, macs_ratio, scale):
        assert (macs_ratio, scale) == (5.0, 1.0)
        threshold = search.trials.gate.threshold / AUTO.threshold
        return dataclasses.replace(best, distance=1 / threshold if looser_is_better else threshold)

    monkeypatch.setattr(search, "with_savings", with_savings)
    found = search.choose_gate(shape, best)
    assert search.trials.gate.threshold == (4 if looser_is_better else 0.5) * AUTO.threshold
    assert found.distance == (0.25 if looser_is_better else 0.5)


@pytest.mark.parametrize(("distance", "chosen"), [(0.9, 10), (1.1, 30)])
def test_what_was_touched_is_computed_anew_more_often_where_that_is_better(monkeypatch, distance, chosen):
    search, shape = searched(refresh_touched=30)
    best = Measured(1.0, 0.01, 5.0, {}, 8, distance=1.0)
    monkeypatch.setattr(search, "with_savings", lambda *_: dataclasses.replace(best, distance=distance))
    assert search.choose_touched(shape, best).distance == min(distance, 1.0)
    assert search.trials.touched == chosen


def test_savings_that_are_not_reached_are_no_better(monkeypatch):
    search, shape = searched(refresh_touched=30)
    best = Measured(1.0, 0.01, 5.0, {}, 8, distance=1.0)
    monkeypatch.setattr(search, "with_savings", lambda *_: dataclasses.replace(best, distance=0.1, macs_ratio=4.0))
    assert search.choose_gate(shape, best) == search.choose_touched(shape, best) == best
    assert search.trials.touched == 30


def test_what_is_never_computed_anew_stays_so():
    search, shape = searched()
    best = Measured(1.0, 0.01, 5.0, {}, 8)
    assert search.choose_touched(shape, best) is best
    assert search.trials.touched is None
