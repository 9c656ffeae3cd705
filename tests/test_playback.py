import numpy as np
import pytest
import torch
from torch import nn

from deltafx.detections import Detections
from deltafx.masks import over_frame
from deltafx.networks import UNIT, Network
from deltafx.playback import Playback
from tests.clips import scene


def network(postprocess=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    return Network("small", model, UNIT, postprocess)


def test_exact_mode_gives_what_dense_gives():
    playback = Playback(network(), ["exact", "fast"])
    shown = list(playback.play(scene(6)))
    assert len(shown) == 6
    exact, fast = playback.summaries()
    assert exact["relative_error"] < 1e-5 < fast["relative_error"]
    assert 0 < exact["macs"] < playback.macs_dense
    assert exact["macs_ratio"] == pytest.approx(playback.macs_dense / exact["macs"])
    assert "f1" not in exact


def test_the_first_frame_counts_nowhere():
    playback = Playback(network(), ["exact"])
    frames = list(scene(4))
    list(playback.play(frames))
    list(playback.play(frames))  # from the start again
    (run,) = playback.runs
    assert len(playback.dense_ms) == len(run.ms) == len(run.macs) == 6
    assert max(run.macs) < playback.macs_dense
    assert run.macs[:3] == run.macs[3:]


def test_nothing_to_say_of_one_frame():
    playback = Playback(network(), ["exact"])
    list(playback.play(scene(1)))
    assert playback.summaries() == []


def test_the_mask_is_where_the_scene_changed():
    playback = Playback(network(), ["exact"])
    *_, last = playback.play(scene(3))
    changed = (list(scene(3))[2] != list(scene(3))[1]).any(2)
    assert (last.steps["exact"].mask.astype(bool) == changed).all()
    assert last.steps["exact"].update_rate == pytest.approx(changed.mean())


def test_boxes_and_classes_are_compared():
    box = Detections(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.9]), torch.tensor([0]))
    playback = Playback(network(lambda outputs: [box]), ["exact"])
    list(playback.play(scene(3)))
    (summary,) = playback.summaries()
    assert (summary["f1"], summary["f1_with_hysteresis"]) == (1, 1)
    playback = Playback(network(lambda outputs: [int(outputs.mean() * 1e6)]), ["fast"])
    list(playback.play(scene(3)))
    assert playback.summaries()[0]["same_class"] < 1


def test_the_dense_network_may_see_fewer_frames():
    playback = Playback(network(), ["exact"])
    shown = list(playback.play(scene(10), dense_every=4))
    assert [number for number, each in enumerate(shown) if each.dense_ms is not None] == [0, 1, 5, 9]
    (run,) = playback.runs
    assert (len(run.ms), len(run.errors), len(playback.dense_ms)) == (9, 3, 3)


def test_a_mask_is_laid_over_the_frame():
    mask = np.zeros((16, 32), np.uint8)
    mask[4:8, 10:12] = 1
    same = over_frame(mask, np.zeros((16, 32, 3)))
    assert np.array_equal(same, mask)
    assert same is not mask
    larger = over_frame(mask, np.zeros((32, 48, 3)))  # the picture was halved, and padded from 24 to 32 columns
    assert larger.shape == (32, 48)
    assert larger[8:16, 20:24].all()
    assert larger.sum() == 8 * 4
