"""Frames as cameras give them: 8-bit, channels last, normalised where they changed."""

import copy
import pickle

import numpy as np
import pytest
import torch

import deltafx
from deltafx.backends import unavailable
from deltafx.measure import relative_error
from tests.small import PAYLOADS, dense, input_rate, small

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESS = deltafx.Preprocess(MEAN, STD)
BACKENDS = [name for name in ("reference", "cpu") if not unavailable(name)]


def raw(seed=0, streams=2, size=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (streams, size, size, 3), dtype=torch.uint8, generator=generator)


def clip():
    """A change of one pixel at a time, a repetition, a new scene."""
    frames = [raw()]
    for step in range(4):
        frame = frames[-1].clone()
        frame[step % 2, step, 2 * step % 7] += 40
        frames.append(frame)
    return [*frames, frames[-1], raw(1), frames[2]]


def normalised(frames, dtype=torch.float32):
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((frames.permute(0, 3, 1, 2).float() / 255 - mean) / std).to(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_it_is_what_preprocessing_by_hand_gives(backend, payload):
    model = small()
    dm = deltafx.convert(model, preprocess=PREPROCESS, backend=backend, payload=payload, options={"check": True})
    by_hand = deltafx.convert(model, backend=backend, payload=payload)
    for frame in clip():
        assert torch.equal(dm(frame), by_hand(normalised(frame)))
        assert input_rate(dm) == input_rate(by_hand)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16(backend):
    model = small().bfloat16()
    dm = deltafx.convert(model, preprocess=PREPROCESS, backend=backend)
    moved = deltafx.convert(small(), preprocess=PREPROCESS, backend=backend).bfloat16()
    by_hand = deltafx.convert(model, backend=backend)
    for frame in clip():
        want = by_hand(normalised(frame, torch.bfloat16))
        assert torch.equal(dm(frame), want)
        assert relative_error(moved(frame), want) < 2e-2


def test_a_frame_may_be_an_array_or_one_picture():
    dm = deltafx.convert(small(), preprocess=PREPROCESS)
    want = dm(raw(streams=1))
    for frame in (raw(streams=1)[0], raw(streams=1).numpy(), raw(streams=1)[0].numpy()):
        deltafx.reset(dm)
        assert torch.equal(dm(frame), want)


def test_a_view_of_a_larger_picture_needs_no_copy():
    model, large = small(), raw(size=20)
    part = large[:, 3:11, 5:13]
    dm = deltafx.convert(model, preprocess=PREPROCESS)
    torch.testing.assert_close(dm(part), dense(model, normalised(part)))
    large[0, 4, 6] += 9
    torch.testing.assert_close(dm(part), dense(model, normalised(part)))
    assert input_rate(dm) == 1 / 128


@pytest.mark.parametrize("backend", BACKENDS)
def test_channels_can_come_the_other_way_round(backend):
    model = small()
    dm = deltafx.convert(model, preprocess=deltafx.Preprocess(MEAN, STD, swap_channels=True), backend=backend)
    for frame in clip():
        torch.testing.assert_close(dm(frame.flip(-1)), dense(model, normalised(frame)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [1, 3])
def test_the_gate_counts_in_levels_of_the_frame(backend, window):
    gate = deltafx.InputGate(threshold=10, window=window, dilation=0)
    dm = deltafx.convert(small(), preprocess=PREPROCESS, input_gate=gate, backend=backend, threshold=0)
    frame = torch.full((1, 8, 8, 3), 100, dtype=torch.uint8)
    dm(frame)
    bright = frame.clone()
    bright[:, 3, 3] += 10 * window * window
    dm(bright)
    assert input_rate(dm) == 0, "a change of just the threshold passes"
    bright[:, 3, 3] += 1
    dm(bright)
    assert input_rate(dm) == window * window / 64


def test_called_it_gives_the_dense_input():
    torch.testing.assert_close(PREPROCESS(raw()), normalised(raw()))
    assert PREPROCESS(raw()[0]).shape == (1, 3, 8, 8)


def test_the_dense_input_is_where_the_frame_is():
    frame = torch.zeros(2, 6, 8, 3, dtype=torch.uint8, device="meta")
    assert PREPROCESS(frame).device.type == "meta"
    (x,) = PREPROCESS.arguments([frame], torch.float16)
    assert (x.device.type, x.shape, x.dtype) == ("meta", (2, 3, 6, 8), torch.float16)


def test_flipped_views_of_numpy():
    """As `frame[:, :, ::-1]` gives them, whose strides PyTorch does not have."""
    frame = raw()[0].numpy()
    dm = deltafx.convert(small(), preprocess=PREPROCESS)
    assert torch.equal(dm(frame[:, ::-1, ::-1]), dm(frame[:, ::-1, ::-1].copy()))
    assert input_rate(dm) == 0


def test_examples_and_comparisons_take_raw_frames():
    model = small()
    dm = deltafx.convert(model, raw(), preprocess=PREPROCESS)
    assert deltafx.compare(model, dm, clip()).total["relative_error"] < 1e-5
    assert deltafx.verify(model, dm, clip()).ok


def test_copies_keep_it():
    dm = deltafx.convert(small(), preprocess=PREPROCESS)
    want = dm(raw())
    for other in (copy.deepcopy(dm), pickle.loads(pickle.dumps(dm))):
        assert torch.equal(other(raw()), want)


def test_the_predicted_state_counts_the_raw_frame():
    dm = deltafx.convert(small(), preprocess=PREPROCESS)
    dm(raw())
    totals = deltafx.report(dm).totals
    assert totals["state_bytes"] == totals["predicted_state_bytes"]
    assert deltafx.report(dm)["dense_to_delta.x"].state_bytes == raw().numel() * 5 + 2 * 64


@pytest.mark.parametrize(
    "frame",
    [torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, 4, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8),
     np.zeros((8, 8, 3), np.float32), "frame.png"],
    ids=["normalised", "four channels", "grey", "float array", "path"],
)  # fmt: skip
def test_other_frames_are_refused(frame):
    dm = deltafx.convert(small(), preprocess=PREPROCESS)
    dm(raw())
    with pytest.raises(deltafx.FrameError, match=r"a frame is uint8 \[H, W, 3\] or \[N, H, W, 3\].*; got .*preprocess"):
        dm(frame)
    dm(raw())
    assert input_rate(dm) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abc", STD), "mean is a number for each channel; got 'abc'"),
        ((MEAN, 0.5), "std is a number for each channel; got 0.5"),
        ((MEAN, STD[:2]), "std has a number larger than 0 for each channel of mean"),
        ((MEAN, (0.2, 0.0, 0.2)), "std has a number larger than 0 for each channel of mean"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(deltafx.ConvertError, match=message):
        deltafx.Preprocess(*arguments)


def test_convert_refuses_what_does_not_fit():
    with pytest.raises(deltafx.ConvertError, match=r"preprocess: a deltafx.Preprocess is expected; got \(0.5,\)"):
        deltafx.convert(small(), preprocess=(0.5,))
    gate = deltafx.InputGate(5, grey_level=1 / 255)
    with pytest.raises(deltafx.ConvertError, match="leave grey_level out"):
        deltafx.convert(small(), preprocess=PREPROCESS, input_gate=gate)
