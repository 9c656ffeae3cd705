"""`compare`: both models over the same frames, set side by side."""

import json

import pytest
import torch
from torch import nn

import deltafx
from tests.small import PAYLOADS, Small, frame, small, touched


def clip(length=4):
    return [touched(frame(), amount=1.0 + index) for index in range(length)]


@pytest.fixture(params=PAYLOADS)
def models(request):
    model = small()
    return model, deltafx.convert(model, payload=request.param)


def test_every_frame_has_error_times_and_macs(models):
    result = deltafx.compare(*models, clip())
    assert len(result.frames) == 4
    for each in result.frames:
        assert each.relative_error < 1e-5
        assert each.ms_dense > 0
        assert each.ms_delta > 0
    assert result.frames[0].macs == result.frames[0].macs_dense
    assert all(0 < each.macs < each.macs_dense / 4 for each in result.frames[1:])


def test_the_total_leaves_the_first_frame_out_of_times_and_macs(models):
    result = deltafx.compare(*models, clip())
    total = result.total
    assert total["frames"] == 4
    assert total["macs"] == sum(each.macs for each in result.frames[1:]) / 3
    assert total["macs_ratio"] == total["macs_dense"] / total["macs"]
    assert total["ms_dense"] == sorted(each.ms_dense for each in result.frames[1:])[1]
    assert total["speed_up"] == total["ms_dense"] / total["ms_delta"]
    assert total["relative_error"] == max(each.relative_error for each in result.frames)


def test_it_starts_in_full_whatever_was_before(models):
    models[1](frame())
    result = deltafx.compare(*models, [frame(), frame()])
    assert result.frames[0].macs == result.frames[0].macs_dense
    assert result.frames[1].macs == 0
    assert result.total["macs_ratio"] is None
    assert "no MACs to save" in str(result)


def test_thresholds_show_as_an_error():
    model = small()
    dm = deltafx.convert(model, threshold=deltafx.absolute(1e6))
    result = deltafx.compare(model, dm, clip())
    assert result.frames[0].relative_error < 1e-5
    assert result.frames[1].relative_error > 1e-3


def test_one_metric_is_named_after_its_function(models):
    def largest(delta, dense):
        return (delta - dense).abs().max()

    result = deltafx.compare(*models, clip(), metric=largest)
    assert set(result.total["metrics"]) == {"largest"}
    assert all(isinstance(each.metrics["largest"], float) for each in result.frames)
    assert "largest" in str(result).splitlines()[0]


def test_several_metrics_have_the_names_they_are_given(models):
    metrics = {"ones": lambda delta, dense: 1, "shape": lambda delta, dense: delta.shape[-1]}
    result = deltafx.compare(*models, clip(), metric=metrics)
    assert result.total["metrics"] == {"ones": 1, "shape": 8}


def test_a_frame_may_be_a_tuple_of_arguments():
    class Scaled(Small):
        def forward(self, x, gain):
            return super().forward(x) * gain

    model = small(Scaled)
    result = deltafx.compare(model, deltafx.convert(model), [(x, 2.0) for x in clip()])
    assert result.total["relative_error"] < 1e-5


def test_a_model_that_overwrites_its_input_does_not_reach_the_other():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)).eval()
    frames = clip()
    kept = [x.clone() for x in frames]
    result = deltafx.compare(model, deltafx.convert(model), frames)
    assert result.total["relative_error"] < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(frames, kept))


def test_frames_may_come_from_a_generator(models):
    assert deltafx.compare(*models, (x for x in clip())).total["frames"] == 4


def test_it_prints_as_a_table_and_can_be_written_as_json(models):
    result = deltafx.compare(*models, clip())
    lines = str(result).splitlines()
    assert lines[0].split()[:2] == ["frame", "error"]
    assert lines[-1].startswith("4 frames: ")
    assert "x fewer MACs, relative error" in lines[-1]
    json.dumps(result.to_dict(), allow_nan=False)


def test_no_frames_are_refused(models):
    with pytest.raises(ValueError, match="compare got no frames"):
        deltafx.compare(*models, [])


def test_a_model_in_training_mode_is_refused(models):
    model, dm = models
    with pytest.raises(ValueError, match=r"compare: the model is in training mode; call model.eval\(\) first"):
        deltafx.compare(model.train(), dm, clip())
