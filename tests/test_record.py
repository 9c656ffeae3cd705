import numpy as np
import pytest
import torch

import deltafx
from deltafx.detections import Detections
from deltafx.networks import UNIT
from deltafx.picture import BAR, BOX, PANEL_WIDTH, PLOT_HEIGHT, Plot, plots
from deltafx.record import round_above, usual
from deltafx.scene import scene
from deltafx.video import Video, VideoError, read_frames
from tests.clips import write
from tests.views.shown import model


@pytest.fixture
def dm():
    return deltafx.convert(model(), preprocess=UNIT)


def test_a_film_of_a_clip(dm, tmp_path):
    clip = write(tmp_path / "clip.avi", list(scene(4)))
    counted = []
    done = deltafx.record(dm, clip, tmp_path / "film.mp4", frames=3, progress=counted.append)
    assert counted == done
    assert done[0].update_rate == 1
    assert done[1].update_rate == pytest.approx(np.mean([(a != b).any(2) for a, b in [list(scene(2))]]))
    with Video(tmp_path / "film.mp4") as film:
        assert (film.width, film.height) == (2 * PANEL_WIDTH, PANEL_WIDTH * 64 // 96 // 2 * 2 + BAR + PLOT_HEIGHT)
        assert (film.announced, film.rate) == (3, 10)


def test_it_starts_from_the_start(dm, tmp_path):
    frames = list(scene(2))
    once = deltafx.record(dm, frames, tmp_path / "a.mp4")
    again = deltafx.record(dm, frames, tmp_path / "b.mp4", rate=5)
    assert [each.macs for each in once] == [each.macs for each in again]


def test_boxes_are_drawn(dm, tmp_path):
    box = Detections(torch.tensor([[20.0, 10, 60, 50]]), torch.tensor([0.9]), torch.tensor([0]))
    deltafx.record(dm, scene(2), tmp_path / "with.mp4", postprocess=lambda outputs: [box])
    deltafx.record(dm, scene(2), tmp_path / "without.mp4")
    scale = PANEL_WIDTH / 96
    with_box, without = (list(read_frames(tmp_path / f"{name}.mp4"))[-1] for name in ("with", "without"))
    for left in (0, PANEL_WIDTH):
        edge = with_box[round(30 * scale), left + round(20 * scale) + 1].astype(int)
        assert abs(edge - BOX).max() < 60
        assert abs(edge - without[round(30 * scale), left + round(20 * scale) + 1]).max() > 30


def test_a_broken_clip_leaves_a_film(dm, tmp_path):
    def breaks():
        yield from scene(2)
        raise VideoError("it ends here")

    with pytest.raises(VideoError, match="it ends here"):
        deltafx.record(dm, breaks(), tmp_path / "film.mp4")
    assert len(list(read_frames(tmp_path / "film.mp4"))) == 2


def test_what_is_refused(dm, tmp_path):
    with pytest.raises(ValueError, match=r"convert it with preprocess=deltafx\.Preprocess"):
        deltafx.record(deltafx.convert(model()), scene(2), tmp_path / "film.mp4")
    with pytest.raises(VideoError, match="the clip has no frames"):
        deltafx.record(dm, [], tmp_path / "film.mp4")
    with pytest.raises(TypeError, match=r"record takes what deltafx\.convert returned; got Two"):
        deltafx.record(model(), scene(2), tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


def test_plots_rise_with_their_values():
    low, high = (plots([Plot("a", [value] * 9, "", 1.0, "")], 300, 9).sum(2) for value in (0.1, 0.9))
    column = 150
    assert np.argmax(high[30:, column] > 300) < np.argmax(low[32:, column] > 300)


@pytest.mark.parametrize(("value", "top"), [(0.0, 0.01), (0.012, 0.02), (0.3, 0.5), (1, 1), (7.2, 10), (130, 200)])
def test_the_top_of_a_scale_is_round(value, top):
    assert round_above(value) == pytest.approx(top)


def test_the_first_frame_does_not_press_the_others_down():
    assert usual([90.0, 3, 4, 2]) == 4
    assert usual([5.0]) == 5
