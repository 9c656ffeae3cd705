import itertools

import numpy as np
import pytest
import torch
from torch import nn

import deltafx
from deltafx.masks import HeatMaps, first_frame_of, leaves_of, mask_of
from deltafx.networks import UNIT
from deltafx.scene import scene
from tests.views.shown import in_parts, model, shown


@pytest.fixture(scope="module")
def frames():
    return list(scene(3))


@pytest.fixture(scope="module")
def dm(frames):
    dm = deltafx.convert(model(), preprocess=UNIT)
    for frame in frames:
        dm(frame)
    return dm


def test_the_inputs_mask_is_where_the_scene_changed(dm, frames):
    assert (mask_of(dm) == (frames[2] != frames[1]).any(2)).all()


def test_masks_are_the_reports(dm):
    report = deltafx.report(dm)
    for path in leaves_of(dm):
        assert mask_of(dm, path).mean() == pytest.approx(report[path].update_rate)


def test_nodes_of_parts_have_masks_too():
    report = deltafx.report(in_parts())
    assert set(leaves_of(in_parts())) == {node.path for node in report.nodes if node.update_rate is not None}


def test_channels_may_be_last():
    class Last(nn.Module):
        def forward(self, x):
            return torch.relu(x.permute(0, 2, 3, 1) * 2)

    dm = deltafx.convert(Last().eval())
    x = torch.rand(1, 3, 6, 8)
    dm(x)
    x = x.clone()
    x[0, :, 2, 5] += 1
    dm(x)
    for path in leaves_of(dm):
        assert mask_of(dm, path).shape == (6, 8)
        assert np.argwhere(mask_of(dm, path)).tolist() == [[2, 5]]


def test_the_frame_is_remembered(dm, frames):
    assert (first_frame_of(dm) == frames[2]).all()


def test_a_frame_in_opencvs_order_comes_back_in_rgb(frames):
    swapped = deltafx.Preprocess(UNIT.mean, UNIT.std, swap_channels=True)
    dm = deltafx.convert(model(), preprocess=swapped)
    dm(np.ascontiguousarray(frames[0][..., ::-1]))
    assert (first_frame_of(dm) == frames[0]).all()


def test_a_normalised_frame_is_stretched(frames):
    dm = deltafx.convert(model())
    dm(UNIT(frames[0]) - 3)
    picture = first_frame_of(dm)
    assert (picture.min(), picture.max(), picture.dtype) == (0, 255, np.uint8)


def test_heat_maps_are_how_often_a_pixel_was_updated(dm, frames):
    maps = HeatMaps(["dense_to_delta.x"])
    deltafx.reset(dm)
    for number, frame in enumerate(frames):
        dm(frame)
        if number:
            maps.add(dm)
    changed = [(a != b).any(2) for a, b in itertools.pairwise(frames)]
    (rates,) = maps.rates().values()
    np.testing.assert_allclose(rates, np.mean(changed, 0))


def test_the_picture_glows_where_a_node_was_updated(dm, frames):
    picture = deltafx.heatmap(dm)
    changed = (frames[2] != frames[1]).any(2)
    assert picture.shape == frames[2].shape
    assert picture.dtype == np.uint8
    assert picture[changed].mean() > 1.5 * picture[~changed].mean()
    larger = np.zeros((128, 192, 3), np.uint8)
    lit = deltafx.heatmap(dm, "stem", larger).any(2)
    assert lit.shape == (128, 192)
    assert lit.mean() == pytest.approx(deltafx.report(dm)["stem"].update_rate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"node": "stme"}, "unknown node with rows and columns 'stme'. Did you mean 'stem'"),
        ({"stream": 1}, "stream 1 does not exist; there are 1, numbered from 0"),
    ],
)
def test_what_does_not_exist(arguments, message):
    with pytest.raises(ValueError, match=message):
        deltafx.heatmap(shown(), **arguments)


def test_before_the_first_frame():
    with pytest.raises(ValueError, match="there is no update mask yet: run a frame first"):
        deltafx.heatmap(deltafx.convert(model()))
