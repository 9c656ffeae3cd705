"""The input gate: which change passes, in which units."""

import copy
import pickle

import pytest
import torch
from torch import nn

import deltafx
from deltafx.gate import DRIFT, FRAMES, LIMIT, NOISE, infer_grey_level
from tests.small import PAYLOADS

IDENTITY = nn.Identity().eval()


@pytest.fixture(params=PAYLOADS)
def payload(request):
    return request.param


def video(streams=1, size=16, seed=0):
    """A first frame in 8-bit grey levels, 0..255, with room for changes."""
    return torch.randint(20, 200, (streams, 3, size, size), generator=torch.Generator().manual_seed(seed)).float()


def passed(dm, x):
    """The pixels of the first stream at which the output is the new frame."""
    got = dm(x)
    return {(int(r), int(c)) for r, c in (got[0] == x[0]).all(0).nonzero()}


def changed_pixel(x, row=8, column=8, amount=10.0, channels=slice(None)):
    x = x.clone()
    x[:, channels, row, column] += amount
    return x


def square(row, column, radius):
    return {(r, c) for r in range(row - radius, row + radius + 1) for c in range(column - radius, column + radius + 1)}


def updated(dm):
    return round(deltafx.report(dm).nodes[0].update_rate * 256)


# ---------------------------------------------------------------------------------------------------------------------
# Which pixels pass


@pytest.mark.parametrize(("amount", "passes"), [(6.0, False), (-6.0, False), (6.5, True), (-6.5, True)])
def test_a_pixel_passes_if_a_channel_changed_by_more_than_the_threshold(payload, amount, passes):
    dm = deltafx.convert(IDENTITY, payload=payload, input_gate=deltafx.InputGate(threshold=6))
    dm(video())
    x = changed_pixel(video(), amount=amount, channels=1)
    torch.testing.assert_close(dm(x), x if passes else video())
    assert updated(dm) == int(passes)


def test_a_window_takes_the_mean_of_the_signed_change():
    dm = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=6, window=3))
    dm(video())
    dm(changed_pixel(video(), amount=50))  # 50 / 9 < 6
    assert updated(dm) == 0
    dm(changed_pixel(video(), amount=55))  # 55 / 9 > 6: everywhere the window sees it
    assert updated(dm) == 9
    noise = 40 * (2 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2) - 1.0)
    deltafx.reset(dm)
    dm(video())
    dm(video() + noise)  # large, but its mean is small
    assert updated(dm) <= 60  # the border, where windows hold an odd number of pixels


def test_the_mean_is_over_the_channels_too():
    dm = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=6, window=3))
    dm(video())
    dm(changed_pixel(video(), amount=100, channels=0))  # 100 / 27 < 6
    assert updated(dm) == 0


def test_a_window_at_the_border_counts_only_pixels_that_exist():
    dm = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=6, window=3))
    dm(video())
    dm(changed_pixel(video(), row=0, column=0, amount=30))  # 30 / 4 > 6 in the corner alone
    assert updated(dm) == 1


def test_a_window_may_be_larger_than_the_frame():
    dm = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=6, window=7))
    dm(video(size=3))
    dm(video(size=3) + 10)
    assert deltafx.report(dm).nodes[0].update_rate == 1


@pytest.mark.parametrize("dilation", [1, 3])
def test_what_passes_is_dilated(payload, dilation):
    dm = deltafx.convert(IDENTITY, payload=payload, input_gate=deltafx.InputGate(threshold=6, dilation=dilation))
    dm(video())
    x = changed_pixel(video() + 3, amount=10)
    assert passed(dm, x) == square(8, 8, dilation)


def test_streams_do_not_meet_in_the_gate():
    dm = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=6, window=3, dilation=2))
    dm(video(streams=2))
    x = video(streams=2)
    x[1] += 50
    dm(x)
    assert deltafx.report(dm).nodes[0].update_rate == 0.5


@pytest.mark.parametrize("window", [1, 3])
def test_a_non_finite_pixel_passes_and_is_gone_after_the_next_good_frame(payload, window):
    dm = deltafx.convert(IDENTITY, payload=payload, input_gate=deltafx.InputGate(threshold=6, window=window))
    dm(video())
    for bad in (float("nan"), float("inf")):
        dm(changed_pixel(video(), amount=bad))
        torch.testing.assert_close(dm(video()), video())


@pytest.mark.parametrize("window", [1, 3])
def test_a_slow_drift_passes_when_it_adds_up(payload, window):
    dm = deltafx.convert(IDENTITY, payload=payload, input_gate=deltafx.InputGate(threshold=6, window=window))
    x = video()
    dm(x)
    shown = []
    for _ in range(6):
        x = x + 2.5
        shown.append((dm(x) - video()).mean().item())
    assert shown == pytest.approx([0, 0, 7.5, 7.5, 7.5, 15], abs=1e-4)


def test_a_refresh_passes_everything(payload):
    dm = deltafx.convert(IDENTITY, payload=payload, input_gate=deltafx.InputGate(threshold=6))
    dm(video())
    torch.testing.assert_close(dm(video() + 3), video())
    deltafx.reset(dm, streams=[0])
    torch.testing.assert_close(dm(video() + 3), video() + 3)


def test_without_a_gate_every_change_passes():
    dm = deltafx.convert(IDENTITY)
    dm(video())
    dm(changed_pixel(video(), amount=2e-5, channels=0))
    assert updated(dm) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Neighbours


BACKENDS = ("reference", "cpu")
HYSTERESIS = deltafx.InputGate(threshold=8, weak=0.5, reach=2)
NO_SINGLE = deltafx.InputGate(threshold=8, neighbours=2)


def changed_pixels(amounts):
    """Those, and all others by 1."""
    x = video() + 1
    for (row, column), amount in amounts.items():
        x[..., row, column] += amount - 1
    return x


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def test_a_weak_change_passes_within_reach_of_a_strong_one(backend):
    dm = deltafx.convert(IDENTITY, backend=backend, input_gate=HYSTERESIS)
    dm(video())
    # Reached along a row, a column and both; too far away; too weak; a weak one, which carries it no further.
    amounts = {(8, 8): 9, (8, 10): -5, (6, 7): 5, (10, 10): 8, (8, 5): 5, (9, 9): 4, (12, 10): 7, (0, 0): 5}
    assert passed(dm, changed_pixels(amounts)) == {(8, 8), (8, 10), (6, 7), (10, 10)}


def test_what_passes_by_hysteresis_is_dilated_too(backend):
    gate = deltafx.InputGate(threshold=8, weak=0.5, reach=2, dilation=1)
    dm = deltafx.convert(IDENTITY, backend=backend, input_gate=gate)
    dm(video())
    x = changed_pixels({(8, 8): 9, (8, 10): 5})
    assert passed(dm, x) == square(8, 8, 1) | square(8, 10, 1)


def test_a_pixel_that_stands_alone_does_not_pass(backend):
    dm = deltafx.convert(IDENTITY, backend=backend, input_gate=NO_SINGLE)
    dm(video())
    alone = {(2, 2): 99, (2, 3): 99}
    three = {(8, 8): 9, (8, 9): 9, (9, 8): 9}
    at_the_edge = {(15, 14): 9, (15, 15): 9, (14, 15): 9}
    assert passed(dm, changed_pixels(alone | three | at_the_edge)) == three.keys() | at_the_edge.keys()


def test_weak_neighbours_are_enough_for_a_strong_one(backend):
    gate = deltafx.InputGate(threshold=8, weak=0.5, reach=1, neighbours=2)
    dm = deltafx.convert(IDENTITY, backend=backend, input_gate=gate)
    dm(video())
    supported = {(8, 8): 9, (8, 9): 5, (9, 8): 5}
    assert passed(dm, changed_pixels({(2, 2): 99, (2, 3): 5} | supported)) == supported.keys()


def test_what_is_withheld_by_neighbours_is_compared_again(backend):
    dm = deltafx.convert(IDENTITY, backend=backend, input_gate=NO_SINGLE)
    dm(video())
    assert passed(dm, changed_pixels({(8, 8): 9})) == set()
    three = {(8, 8): 9, (8, 9): 9, (9, 8): 9}
    assert passed(dm, changed_pixels(three)) == three.keys()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_pixel_that_stands_alone_is_gone_after_the_next_good_frame(backend, bad):
    dm = deltafx.convert(IDENTITY, backend=backend, input_gate=NO_SINGLE)
    dm(video())
    assert not dm(changed_pixel(video(), amount=bad)).isfinite().all()
    torch.testing.assert_close(dm(video()), video())


GATES = [
    deltafx.InputGate(9, weak=0.5, reach=3),
    deltafx.InputGate(9, neighbours=3),
    deltafx.InputGate(9, weak=0.3, reach=1, neighbours=5, dilation=1),
    deltafx.InputGate(6, noise=2, weak=0.5, reach=2, neighbours=1),
    deltafx.InputGate(9, dilation=2),
]


def moving(raw):
    """A square that moves under noise, in whole grey levels, which leave nothing to rounding."""
    shown = []
    for number in range(6):
        x = noisy(5.0, number, streams=1 if raw else 2, size=37).round().clamp(0, 255)
        x[:, :, 4:20, 3 * number : 3 * number + 9] = 255
        shown.append(x[0].permute(1, 2, 0).to(torch.uint8) if raw else x)
    return shown


def assert_same_pixels(dms, shown):
    for x in shown:
        for dm in dms:
            dm(x)
        ours, theirs = (dm.runtime.plans[0].inputs[0].leaves[0].mask for dm in dms)
        assert torch.equal(ours, theirs)
    assert 0 < theirs.float().mean() < 1


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("raw", [False, True])
def test_the_compiled_backend_passes_the_same_pixels(gate, raw):
    preprocess = deltafx.Preprocess(mean=(0.45,) * 3, std=(0.225,) * 3) if raw else None
    dms = [deltafx.convert(IDENTITY, backend=name, input_gate=gate, preprocess=preprocess) for name in BACKENDS]
    assert_same_pixels(dms, moving(raw))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weak": 0, "reach": 2}, "weak is a share of the threshold"),
        ({"weak": 1.5, "reach": 2}, "weak is a share of the threshold"),
        ({"weak": 0.5}, "hysteresis needs weak below 1 and reach above 0"),
        ({"reach": 2}, "hysteresis needs weak below 1 and reach"),
        ({"weak": 0.5, "reach": 33}, "reach is a number of pixels between 0 and 32"),
        ({"neighbours": 9}, "neighbours is a number of pixels between 0 and 8"),
        ({"neighbours": True}, "neighbours is a number of pixels between 0 and 8"),
    ],
)
def test_what_is_asked_of_neighbours_is_checked(arguments, message):
    with pytest.raises(deltafx.ConvertError, match=f"InputGate: {message}"):
        deltafx.InputGate(8, **arguments)


# ---------------------------------------------------------------------------------------------------------------------
# Grey levels


RANGES = {
    "0..255": (lambda x: x, 1.0),
    "8 bit": (lambda x: x.to(torch.uint8), 1.0),
    "0..1": (lambda x: x / 255, 1 / 255),
    "-1..1": (lambda x: x / 127.5 - 1, 2 / 255),
    "normalised": (lambda x: (x / 255 - 0.45) / 0.225, 1 / 57.4),
}


@pytest.mark.parametrize("name", RANGES)
def test_the_size_of_a_grey_level_is_inferred(name):
    scale, level = RANGES[name]
    assert infer_grey_level(scale(video())) == pytest.approx(level)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize(("amount", "passes"), [(5.0, 0), (7.0, 1)])
def test_the_threshold_is_in_grey_levels_whatever_the_range(name, amount, passes):
    scale, level = RANGES[name]
    dm = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=6))
    dm(scale(video()))
    dm(scale(changed_pixel(video(), amount=amount)))
    assert updated(dm) == passes
    assert deltafx.report(dm).nodes[0].threshold == pytest.approx(6 * level)


def test_a_given_grey_level_wins():
    dm = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=6, grey_level=10))
    dm(video())
    dm(changed_pixel(video(), amount=55))
    assert updated(dm) == 0
    dm(changed_pixel(video(), amount=65))
    assert updated(dm) == 1
    assert dm.runtime.scales == {}
    assert deltafx.report(dm).nodes[0].threshold == 60


def test_the_grey_level_is_inferred_once():
    dm = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=6))
    dm(video())
    deltafx.reset(dm)
    dm(video() / 255)
    assert dm.runtime.scales == {"dense_to_delta.input:grey_level": 1.0}


@pytest.mark.parametrize("first", [0.0, 0.5, float("nan")])
def test_the_grey_level_waits_for_a_picture(payload, first):
    dm = deltafx.convert(IDENTITY, payload=payload, input_gate=deltafx.InputGate(threshold=6))
    dm(torch.full_like(video(), first))
    assert dm.runtime.scales == {}
    torch.testing.assert_close(dm(video()), video())
    assert dm.runtime.scales == {"dense_to_delta.input:grey_level": 1.0}
    dm(changed_pixel(video(), amount=5.0))
    assert updated(dm) == 0


def test_two_inputs_may_have_different_ranges():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + 1, y + 1

    dm = deltafx.convert(Two().eval(), input_gate=deltafx.InputGate(threshold=6))
    dm(video(), video() / 255)
    assert dm.runtime.scales == {"dense_to_delta.x:grey_level": 1.0, "dense_to_delta.y:grey_level": 1 / 255}


def test_what_is_no_image_passes_when_it_changes_at_all():
    dm = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=6))
    dm(torch.zeros(2, 5))
    assert torch.equal(dm(torch.full((2, 5), 0.1)), torch.full((2, 5), 0.1))
    assert deltafx.report(dm).nodes[0].threshold is None


# ---------------------------------------------------------------------------------------------------------------------
# Gates that adapt


FOLLOWS = deltafx.InputGate(threshold=2, window=3, noise=4)
FLICKERS = deltafx.InputGate(threshold=2, window=3, drift=10)


def noisy(sigma, number, streams=1, size=48):
    generator = torch.Generator().manual_seed(number)
    noise = sigma * torch.randn(video(streams, size).shape, generator=generator)
    return (video(streams, size) + noise).clamp(0, 255)


def learned(dm):
    (values,) = dm.runtime.of_gates.values()
    return values


def test_a_change_of_the_whole_brightness_does_not_pass():
    dm = deltafx.convert(IDENTITY, input_gate=FLICKERS)
    dm(video())
    for amount in (5.0, -3.0, 10.0):
        dm(video() + amount)
        assert updated(dm) == 0
        assert learned(dm)[0, DRIFT] == amount


def test_motion_passes_under_a_change_of_the_whole_brightness():
    dm = deltafx.convert(IDENTITY, input_gate=FLICKERS)
    dm(video())
    x = changed_pixel(video() + 5, amount=50)
    assert passed(dm, x) == square(8, 8, 1)
    dm(x + 3)
    assert updated(dm) <= 25  # only around what was taken over under another light


def test_a_larger_change_of_brightness_passes_everywhere():
    dm = deltafx.convert(IDENTITY, input_gate=FLICKERS)
    dm(video())
    assert torch.equal(dm(video() + 11), video() + 11)
    assert updated(dm) == 256


def test_a_slow_change_of_brightness_arrives():
    dm = deltafx.convert(IDENTITY, input_gate=FLICKERS)
    for number in range(100):
        shown = dm(video() + number / 4)
    assert (video() + 99 / 4 - shown).abs().max() <= 12


def test_the_threshold_follows_the_noise_of_each_stream():
    dm = deltafx.convert(IDENTITY, input_gate=FOLLOWS)
    sigma = torch.tensor([1.0, 12.0]).view(2, 1, 1, 1)
    for number in range(20):
        dm(noisy(sigma, number, streams=2))
    quiet, loud = learned(dm)
    assert quiet[LIMIT] == 2  # the least
    assert loud[NOISE] == pytest.approx(12 * 2**0.5 / 27**0.5, rel=0.2)  # of a difference, and a mean of 27 numbers
    assert loud[LIMIT] == 4 * loud[NOISE].clamp(max=2)
    mask = dm.runtime.plans[0].inputs[0].leaves[0].mask.float()
    assert mask[1].mean() < 0.02
    fixed = deltafx.convert(IDENTITY, input_gate=deltafx.InputGate(threshold=2, window=3))
    for number in range(20):
        fixed(noisy(12.0, number))
    assert deltafx.report(fixed).nodes[0].update_rate > 0.1


def test_a_threshold_never_grows_beyond_four_times_the_least():
    dm = deltafx.convert(IDENTITY, input_gate=FOLLOWS)
    for number in range(5):
        dm(noisy(60.0, number))
    assert learned(dm)[0, LIMIT] == 8


def test_a_reset_forgets_what_was_learned():
    dm = deltafx.convert(IDENTITY, input_gate=FOLLOWS)
    for number in range(5):
        dm(noisy(12.0, number, streams=2))
    deltafx.reset(dm, streams=[1])
    assert learned(dm)[0, FRAMES] == 4
    assert not learned(dm)[1].any()
    deltafx.reset(dm)
    assert not learned(dm).any()


def test_a_full_refresh_keeps_what_was_learned():
    dm = deltafx.convert(IDENTITY, input_gate=FOLLOWS, refresh_every=3)
    for number in range(7):
        dm(noisy(12.0, number))
    assert learned(dm)[0, FRAMES] == 4  # nothing is learned of frames 0, 3 and 6


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda dm: pickle.loads(pickle.dumps(dm))], ids=["copy", "pickle"]
)
def test_what_was_learned_is_saved_with_the_model(duplicate):
    dm = deltafx.convert(IDENTITY, input_gate=FOLLOWS)
    for number in range(5):
        dm(noisy(12.0, number))
    other = duplicate(dm)
    assert torch.equal(learned(other), learned(dm))
    other(noisy(12.0, 5))
    assert learned(dm)[0, FRAMES] == 4
    other(noisy(12.0, 6))
    assert learned(other)[0, FRAMES] == 5  # the first frame of the copy is in full


def test_the_same_frames_teach_the_same():
    dms = [deltafx.convert(IDENTITY, input_gate="auto") for _ in range(2)]
    for number in range(6):
        results = [dm(noisy(5.0, number)) for dm in dms]
        assert torch.equal(*results)
    assert torch.equal(*(learned(dm) for dm in dms))


def test_auto_is_a_gate_that_adapts():
    dm = deltafx.convert(IDENTITY, input_gate="auto")
    gate = dm.get_submodule("dense_to_delta.input").gate
    assert gate.noise > 0
    assert gate.drift > 0


def test_a_bad_frame_teaches_nothing_wrong():
    dm = deltafx.convert(IDENTITY, input_gate=FLICKERS)
    dm(video())
    bad = video() + 5
    bad[..., :8, :] = float("nan")
    dm(bad)
    assert learned(dm)[0, DRIFT] == 5
    dm(torch.full_like(video(), float("inf")))
    assert learned(dm).isfinite().all()
    torch.testing.assert_close(dm(video()), video(), rtol=0, atol=6)


@pytest.mark.parametrize(("name", "value"), [("noise", -1), ("drift", 33), ("noise", "4"), ("drift", float("nan"))])
def test_what_makes_a_gate_adapt_is_checked(name, value):
    with pytest.raises(deltafx.ConvertError, match=f"InputGate: {name} is a number between 0 and 32"):
        deltafx.InputGate(1, **{name: value})
    with pytest.raises(deltafx.ConvertError, match=r'a deltafx\.InputGate or "auto" is expected'):
        deltafx.convert(IDENTITY, input_gate="automatic")
