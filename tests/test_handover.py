"""A tensor that goes from one converted model to another is not compared again, unless anything was done to it."""

import copy
import io

import pytest
import torch
from torch import nn

import deltafx
from deltafx.handover import handover_of
from deltafx.plan import Plan


def networks():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval()
    two = nn.Sequential(nn.Conv2d(8, 5, 3, padding=1), nn.ReLU()).eval()
    return one, two


@pytest.fixture
def told(monkeypatch):
    """What each input was told of its changes, in order."""
    found = []
    known_changes = Plan.known_changes

    def note(*args):
        found.append(known_changes(*args))
        return found[-1]

    monkeypatch.setattr(Plan, "known_changes", note)
    return found


def frames(count=4, streams=2):
    generator = torch.Generator().manual_seed(1)
    frame = torch.randn(streams, 3, 12, 14, generator=generator)
    for n in range(count):
        frame = frame.clone()
        frame[n % streams, :, 2 + n : 4 + n, 5:8] += 1
        yield frame


def follow(told, between, backend="reference", **arguments):
    """Run both over a clip with `between` on the way; whether each of the later frames was handed over."""
    one, two = networks()
    first = deltafx.convert(one, backend=backend, **arguments)
    second = deltafx.convert(two, backend=backend, options={"check": True}, **arguments)
    handed = []
    for frame in frames():
        features = between(first(frame))
        result = second(features)
        handed.append(told[-1] is not None)
        with torch.no_grad():
            torch.testing.assert_close(result, two(features), rtol=1e-4, atol=1e-5)
        told.clear()
    return handed[1:]


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("payload", ["value", "difference"])
def test_an_untouched_tensor_is_handed_over(told, backend, payload):
    assert all(follow(told, lambda x: x, backend, payload=payload))


def test_also_in_inference_mode(told):
    with torch.inference_mode():
        one, two = (deltafx.convert(each) for each in networks())
        for frame in frames(2):
            two(one(frame))
    assert told[-1] is not None
    assert told[-1].sum() < told[-1].numel() / 2


def in_place(x):
    x[0, 0, 0, 0] = 7.0
    return x


def in_place_in_inference_mode(x):
    with torch.inference_mode():
        return x.mul_(2)


def through_a_view(x):
    x.view(-1)[5] = 3.0
    return x


def resized(x):
    with torch.no_grad():
        return x.resize_(2, 8, 14, 12)


@pytest.mark.parametrize(
    "change",
    [
        in_place, in_place_in_inference_mode, through_a_view, resized, torch.clone, copy.copy, copy.deepcopy,
        lambda x: x[[1, 0]], lambda x: x.flip(0), lambda x: x[:1], lambda x: x[1:], lambda x: x.detach(),
        lambda x: torch.cat([x, x]), lambda x: x[:, :, :6], lambda x: x.float(memory_format=torch.channels_last),
    ],
)  # fmt: skip
def test_a_tensor_that_something_was_done_to_is_compared(told, change):
    assert not any(follow(told, change))


def test_a_tensor_of_an_older_frame_is_compared(told):
    one, two = networks()
    first, second = deltafx.convert(one), deltafx.convert(two)
    outputs = []
    for frame in frames():
        outputs.append(first(frame))
        told.clear()
        given = outputs[max(0, len(outputs) - 2)]
        result = second(given)
        assert told == [None]
        with torch.no_grad():
            torch.testing.assert_close(result, two(given))


def test_a_missed_frame_is_made_up_for(told):
    one, two = networks()
    first, second = deltafx.convert(one), deltafx.convert(two)
    for number, frame in enumerate(frames(6)):
        features = first(frame)
        if number in (2, 3):
            continue
        told.clear()
        result = second(features)
        assert (told[0] is None) == (number in (0, 4))
        with torch.no_grad():
            torch.testing.assert_close(result, two(one(frame)), rtol=1e-4, atol=1e-5)


def test_a_tensor_of_another_graph_is_compared(told):
    one, two = networks()
    left, right, second = deltafx.convert(one), deltafx.convert(one), deltafx.convert(two)
    for number, frame in enumerate(frames(6)):
        features = [left(frame), right(frame.flip(3))][number % 2]
        told.clear()
        result = second(features)
        assert told == [None]
        with torch.no_grad():
            torch.testing.assert_close(result, two(features))


def test_a_frame_that_was_interrupted_is_made_up_for(told):
    one, two = networks()
    first, second = deltafx.convert(one), deltafx.convert(two)
    clip = list(frames(4))
    second(first(clip[0]))
    hook = second.get_submodule("1" if hasattr(second, "1") else "0").register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        second(first(clip[1]))
    hook.remove()
    for frame in clip[2:]:
        with torch.no_grad():
            torch.testing.assert_close(second(first(frame)), two(one(frame)), rtol=1e-4, atol=1e-5)


def stop(*args):
    raise KeyboardInterrupt


def test_a_gate_compares_for_itself(told):
    one, two = networks()
    gate = deltafx.InputGate(threshold=0.01, grey_level=1.0)
    first, second = deltafx.convert(one), deltafx.convert(two, input_gate=gate)
    for frame in frames(3):
        second(first(frame))
    assert told == [None] * 6


def test_pixels_travel_with_the_tensor():
    """Tokens keep their own layout: without it, dimension 1 would be taken for the channels."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(2)).eval()
    two = nn.Sequential(nn.Conv1d(8, 8, 1), nn.ReLU()).eval()
    first, second = deltafx.convert(one), deltafx.convert(two)
    for frame in frames(3):
        second(first(frame))
    (leaf,) = second.runtime.plans[0].inputs[0].leaves
    assert leaf.pixel == (2, 1, 168)
    assert 0 < leaf.mask.sum() < 60


def test_rows_that_changed_are_handed_over_to_what_looks_at_pixels(told):
    """What leaves has a mask of rows, which the next one needs as a mask of pixels."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm(14)).eval()
    two = networks()[1]
    first, second = deltafx.convert(one), deltafx.convert(two)
    second(torch.randn(2, 8, 12, 14))  # as somebody else's, whose pixels are compared one by one
    for frame in frames(5):
        features = first(frame)
        with torch.no_grad():
            torch.testing.assert_close(second(features), two(features), rtol=1e-4, atol=1e-5)
    assert told[-1] is not None
    assert told[-1].shape == (2, 1, 12, 14)
    assert told[-1].is_contiguous()


def test_what_left_can_be_saved_and_copied():
    one, _ = networks()
    features = deltafx.convert(one)(next(frames()))
    file = io.BytesIO()
    torch.save(features, file)
    file.seek(0)
    loaded = torch.load(file)
    assert torch.equal(loaded, features)
    assert handover_of(loaded) is None
    assert handover_of(copy.deepcopy(features)) is None
