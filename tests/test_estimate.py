import itertools
import sys

import numpy as np
import pytest
import torch
from torch import nn

import deltafx
from deltafx.estimate import ModeEstimate, motion_of, shift
from deltafx.networks import UNIT
from deltafx.video import VideoError
from tests.clips import scene, write

module = sys.modules["deltafx.estimate"]  # deltafx.estimate is the function


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


def clip(folder, name, **arguments):
    path = folder / f"{name}.avi"
    return path if path.exists() else write(path, list(scene(60, 96, 128, **arguments)))


def test_a_fixed_camera_with_noise(folder):
    result = deltafx.estimate(model(), clip(folder, "noise", noise=2), preprocess=UNIT)
    assert result.camera_motion == 0
    assert result["exact"].update_rate > 0.9 > 0.5 > result["balanced"].update_rate
    assert 0 < result["balanced"].macs < 0.6 * result.macs_dense
    assert result["exact"].relative_error < 1e-5 < result["balanced"].relative_error < 0.5
    assert [each.mode for each in result.modes] == ["exact", "balanced", "fast"]
    assert result.to_dict()["modes"][1]["macs_ratio"] == pytest.approx(result.macs_dense / result["balanced"].macs)
    assert str(result).endswith(result.verdict)


def test_a_camera_that_moves(folder):
    result = deltafx.estimate(model(), clip(folder, "pan", pan=4), preprocess=UNIT)
    assert not result.pays
    assert result.camera_motion == pytest.approx(4, rel=0.1)
    assert result.verdict.startswith("No: this camera moves, by about 4 pixels a frame, so ")


def test_what_it_predicts_is_what_a_whole_run_computes(folder):
    path = clip(folder, "noise", noise=2)
    predicted = deltafx.estimate(model(), path, preprocess=UNIT)
    dm = deltafx.convert(model(), mode="balanced", preprocess=UNIT)
    macs = []
    for frame in scene(60, 96, 128, noise=2):
        dm(frame)
        macs.append(deltafx.report(dm).totals["macs"])
    assert predicted["balanced"].macs == pytest.approx(np.mean(macs[1:]), rel=0.2)


def test_it_stops_when_its_time_is_over(folder, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    result = deltafx.estimate(model(), clip(folder, "noise", noise=2), preprocess=UNIT, budget=0)
    assert result.frames == module.LEAST - 1


def test_with_time_it_sees_as_many_frames_as_there_are(folder):
    frames = deltafx.estimate(model(), clip(folder, "noise", noise=2), preprocess=UNIT).frames
    assert 45 <= frames <= 60  # of 60; the first of a stretch counts nowhere


def test_each_place_is_far_from_those_before():
    assert list(itertools.islice(module.places(), 9)) == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8, 1 / 16]


def test_one_frame_is_not_enough(tmp_path):
    with pytest.raises(VideoError, match=r"one\.avi: one frame is not enough"):
        deltafx.estimate(model(), write(tmp_path / "one.avi", list(scene(1))), preprocess=UNIT)


def test_a_camera_is_recorded_first(monkeypatch, folder):
    monkeypatch.setattr("deltafx.video.is_live", lambda source: True)
    with pytest.raises(VideoError, match="record a minute of it first"):
        deltafx.estimate(model(), clip(folder, "noise", noise=2), preprocess=UNIT)


@pytest.mark.parametrize("moved", [(0, 0), (3, 0), (0, -5), (-2, 4)])
def test_shift(moved):
    wall = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    down, right = moved
    before, after = wall[10:70, 10:90], wall[10 - down : 70 - down, 10 - right : 90 - right]
    assert shift(before, after) == moved


def test_shift_of_large_frames_is_in_their_pixels():
    wall = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    assert shift(wall[:, :400], wall[:, 32:432]) == pytest.approx((0, -32), abs=4)


def test_now_and_then_a_shift_is_no_motion():
    assert motion_of([(0.0, 0.0)] * 6 + [(0.0, 3.0)] * 4) == 0
    assert motion_of([(0.0, 0.0)] * 4 + [(0.0, 3.0)] * 6) == 3
    assert motion_of([]) == 0


# -- the verdict ------------------------------------------------------------------------------------------------------


def mode(name, update_rate, speed_up, left=0.1):
    return ModeEstimate(name, update_rate, 1e6, 1 / left, 10.0, speed_up, 0.05)


def judged(exact, balanced, fast, motion=0.0):
    modes = {each.mode: each for each in (mode("exact", *exact), mode("balanced", *balanced), mode("fast", *fast))}
    return module.judge(modes, motion)


def test_the_most_exact_mode_is_named_that_has_half_of_the_best_speed_up():
    assert judged((0.1, 3), (0.05, 5), (0.04, 6))[1].startswith("Yes: exact is predicted to run 3.0 times faster")
    assert judged((0.98, 0.9), (0.05, 5), (0.04, 6)) == (
        True,
        "Yes: balanced is predicted to run 5.0 times faster than dense, with a relative error of 5.0e-02. "
        "Noise updates 98% of the pixels, so exact mode saves little.",
    )


def test_a_scene_in_which_everything_moves():
    pays, verdict = judged((1, 0.8), (0.7, 0.95, 0.6), (0.65, 1.0, 0.5))
    assert not pays
    assert verdict == (
        "No: 60% of the multiply-accumulates are left even where noise is ignored, as in cuts and where all of a scene "
        "moves. Best is exact, 0.8 times as fast as dense with a relative error of 5.0e-02."
    )


def test_a_light_that_flickers_pays_where_the_network_does_not_mind():
    assert judged((1, 0.9), (0.6, 7, 0.1), (0.3, 9, 0.05))[0]


def test_frames_that_are_too_small():
    pays, verdict = judged((0.1, 0.3), (0.05, 0.9), (0.04, 0.95))
    assert not pays
    assert verdict.startswith(
        "No: a frame costs 10.0 ms although only 5% of its pixels change; the frames are too small"
    )


def test_a_camera_that_moves_is_named():
    pays, verdict = judged((1, 0.8), (0.9, 0.95, 0.9), (0.9, 1.0, 0.9), motion=4.2)
    assert not pays
    assert verdict == (
        "No: this camera moves, by about 4 pixels a frame, so 90% of the multiply-accumulates are left. deltafx is for "
        "fixed cameras."
    )


def test_a_shaking_camera_whose_changes_the_gate_leaves_out_may_pay():
    assert judged((1, 0.9), (0.2, 3), (0.1, 4), motion=1.0)[0]
