"""Thresholds: modes, shares and absolute values, norms, what is withheld and when it arrives."""

import warnings

import pytest
import torch
from torch import nn

import deltafx
from deltafx.truncation import changed
from tests.small import PAYLOADS, dense, frame, input_rate, small, touched


class Channels(nn.Module):
    """One node, whose output is its input: a threshold is compared with what the test writes into the frame."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1, bias=False)
        self.conv.weight.data = torch.eye(4).view(4, 4, 1, 1)

    def forward(self, x):
        return self.conv(x)


@pytest.fixture(params=PAYLOADS)
def payload(request):
    return request.param


def converted(payload="value", **arguments):
    return deltafx.convert(Channels().eval(), payload=payload, **arguments)


def picture(seed=0):
    return torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


def shifted(x, *change):
    """One pixel's channels are changed."""
    x = x.clone()
    x[0, :, 2, 3] += torch.tensor(change)
    return x


# ---------------------------------------------------------------------------------------------------------------------
# Which threshold


@pytest.mark.parametrize(
    ("mode", "inside", "at_ends", "gate"),
    [
        ("exact", 0, 0, None),
        ("balanced", 0.2, 0.05, deltafx.InputGate(threshold=4, window=7, dilation=5, noise=4, drift=12)),
        ("fast", 0.4, 0.05, deltafx.InputGate(threshold=8, window=7, dilation=5, noise=4, drift=12)),
    ],
)
def test_a_mode_sets_gate_and_thresholds(mode, inside, at_ends, gate):
    dm = deltafx.convert(small(), mode=mode)
    found = [getattr(dm, name).truncation.threshold.value for name in ("first", "second", "head")]
    assert found == [at_ends, inside, at_ends]
    assert dm.get_submodule("dense_to_delta.x").gate == gate


@pytest.mark.parametrize("mode", ["balanced", "fast"])
def test_what_a_mode_withholds_arrives_by_a_refresh(mode):
    assert deltafx.convert(small(), mode=mode).runtime.settings.refresh_touched == 30
    assert deltafx.convert(small(), mode=mode, refresh_every=50).runtime.settings.refresh_touched is None
    difference = deltafx.convert(small(), mode=mode, payload="difference")
    assert difference.runtime.settings.refresh_touched is None  # it has none
    assert deltafx.convert(small()).runtime.settings.refresh_touched is None


def test_explicit_arguments_win_over_the_mode():
    gate = deltafx.InputGate(threshold=1)
    dm = deltafx.convert(small(), mode="balanced", threshold=0.5, input_gate=gate)
    assert dm.first.truncation.threshold.value == 0.5
    assert dm.get_submodule("dense_to_delta.x").gate == gate


def test_a_mapping_sets_some_nodes_and_leaves_the_others_to_the_mode():
    dm = deltafx.convert(small(), mode="balanced", threshold={"second": deltafx.absolute(3)})
    assert dm.second.truncation.threshold == deltafx.absolute(3)
    assert dm.first.truncation.threshold.value == 0.05
    assert deltafx.convert(small(), threshold={"second": 0.3}).first.truncation.threshold.value == 0


def test_a_fused_node_may_be_named_by_any_of_its_parts():
    dm = deltafx.convert(small(), threshold={"relu": 0.3})
    assert dm.first.fused_from == ("first", "relu")
    assert dm.first.truncation.threshold.value == 0.3


def test_a_share_is_one_of_the_root_mean_square_of_the_first_frame(payload):
    dm = converted(payload, threshold=0.5)
    dm(3 * picture())
    scale = (3 * picture()).square().mean().sqrt().item()
    assert dm.runtime.scales == {"conv": pytest.approx(scale)}
    assert deltafx.report(dm)["conv"].threshold == pytest.approx(0.5 * scale)


def test_a_share_is_measured_once(payload):
    dm = converted(payload, threshold=0.5)
    dm(picture())
    before = dict(dm.runtime.scales)
    dm(100 * picture())
    deltafx.reset(dm)
    dm(100 * picture())
    dm(100 * picture(1)[:, :, :5])
    assert dm.runtime.scales == before


@pytest.mark.parametrize("first", [0.0, 1.0, float("nan"), float("inf")])
def test_a_share_waits_for_a_picture(payload, first):
    dm = converted(payload, threshold=0.5)
    dm(torch.full_like(picture(), first))
    assert dm.runtime.scales == {}
    assert deltafx.report(dm)["conv"].threshold is None
    shown = dm(picture())
    assert dm.runtime.scales == {"conv": pytest.approx(picture().square().mean().sqrt().item())}
    torch.testing.assert_close(dm(picture() + 0.01), shown)  # withheld


def test_one_dark_stream_does_not_hold_up_the_others():
    dm = converted(threshold=0.5)
    dm(torch.cat([picture(), torch.zeros_like(picture())]))
    assert dm.runtime.scales.keys() == {"conv"}


def test_a_node_that_is_always_0_withholds_nothing():
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.ReLU()).eval()
    model[0].weight.data.fill_(-1)
    dm = deltafx.convert(model, threshold=0.5)
    dm(picture().abs())
    assert dm.runtime.scales == {"0": 0}
    for x in (shifted(picture().abs(), 0, 0, 0, 0.1), shifted(picture().abs(), -9.0, 0, 0, 0)):
        torch.testing.assert_close(dm(x), dense(model, x))


def test_an_absolute_threshold_is_in_units_of_the_tensor(payload):
    dm = converted(payload, threshold=deltafx.absolute(1.0), norm="max")
    dm(1000 * picture())
    assert dm.runtime.scales == {}
    assert deltafx.report(dm)["conv"].threshold == 1
    assert torch.equal(dm(shifted(1000 * picture(), 0.5, 0, 0, 0)), 1000 * picture())
    torch.testing.assert_close(dm(shifted(1000 * picture(), 1.5, 0, 0, 0)), shifted(1000 * picture(), 1.5, 0, 0, 0))


# ---------------------------------------------------------------------------------------------------------------------
# Norms


@pytest.mark.parametrize(("norm", "passes"), [("rms", False), ("max", True)])
def test_one_channel_counts_alone_or_as_a_share(payload, norm, passes):
    dm = converted(payload, threshold=deltafx.absolute(1.0), norm=norm)
    dm(picture())
    x = shifted(picture(), 1.5, 0, 0, 0)  # rms 0.75, max 1.5
    torch.testing.assert_close(dm(x), x if passes else picture())


@pytest.mark.parametrize("norm", ["rms", "max"])
def test_a_change_of_the_size_of_the_threshold_is_withheld(norm):
    old, new = torch.zeros(1, 4, 1, 2), torch.zeros(1, 4, 1, 2)
    new[..., 0], new[..., 1] = 1.0, 1.001
    assert changed(new, old, (1, 1, 1, 2), torch.tensor(1.0), norm).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("norm", ["rms", "max"])
def test_norms_are_taken_in_float32_or_better(norm):
    old = torch.zeros(1, 4, 1, 1, dtype=torch.float16)
    new = torch.full_like(old, 1e-4)  # its square is 0 in float16
    assert changed(new, old, (1, 1, 1, 1), torch.tensor(5e-5), norm).item() == 1
    tiny = torch.full_like(old, 1e-30, dtype=torch.float64)
    assert changed(tiny, old.double(), (1, 1, 1, 1), torch.tensor(1e-31, dtype=torch.float64), norm).item() == 1


def test_at_threshold_0_the_smallest_change_counts():
    dm = converted()
    dm(torch.zeros(1, 4, 6, 6))
    x = torch.zeros(1, 4, 6, 6)
    x[0, 1, 2, 3] = 1e-45
    assert torch.equal(dm(x), x)


@pytest.mark.parametrize("norm", ["rms", "max"])
def test_a_non_finite_change_is_never_withheld(payload, norm):
    dm = converted(payload, threshold=deltafx.absolute(1e30), norm=norm)
    dm(picture())
    for bad in (float("nan"), float("inf")):
        x = shifted(picture(), bad, 0, 0, 0)
        torch.testing.assert_close(dm(x)[0, 0], x[0, 0], equal_nan=True)
        torch.testing.assert_close(dm(picture()), picture())


# ---------------------------------------------------------------------------------------------------------------------
# Withheld, not lost


def test_a_slow_drift_arrives_when_it_adds_up(payload):
    dm = converted(payload, threshold=deltafx.absolute(1.0))
    x = picture()
    dm(x)
    shown = []
    for _ in range(8):
        x = x + 0.3
        shown.append((dm(x) - picture()).mean().item())
    assert shown == pytest.approx([0, 0, 0, 1.2, 1.2, 1.2, 1.2, 2.4], abs=1e-5)


def test_what_returns_before_it_arrived_is_never_seen(payload):
    dm = converted(payload, threshold=deltafx.absolute(1.0))
    for change in (0, 0.6, -0.6, 0.9, 0):
        x = shifted(picture(), *[float(change)] * 4)
        torch.testing.assert_close(dm(x), picture(), atol=1e-5, rtol=0)


def test_a_reset_shows_what_was_withheld(payload):
    dm = converted(payload, threshold=deltafx.absolute(1.0))
    dm(picture())
    x = picture() + 0.5
    torch.testing.assert_close(dm(x), picture())
    deltafx.reset(dm)
    torch.testing.assert_close(dm(x), x)


def test_every_stored_pixel_is_within_its_threshold(payload):
    model = small()
    dm = deltafx.convert(model, payload=payload, threshold=0.1, options={"check": True})
    x = frame()
    for seed in range(5):
        dm(x + 0.05 * frame(seed + 1))


# ---------------------------------------------------------------------------------------------------------------------
# The hint that almost everything changes


HINT = r"100 % of the input's pixels changed .*mean of 30 frames.*mode=\"balanced\""


def noisy(dm, frames, start=0):
    for seed in range(start, start + frames):
        dm(frame(seed, size=4))


@pytest.fixture
def silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_noise_is_warned_of_once_after_30_frames(silence):
    dm = deltafx.convert(small())
    noisy(dm, 29)
    with pytest.warns(UserWarning, match=HINT):
        noisy(dm, 1, 29)
    noisy(dm, 40, 30)
    deltafx.reset(dm)
    noisy(dm, 40)


def test_a_quiet_camera_is_not_warned_of(silence):
    dm = deltafx.convert(small())
    for index in range(40):
        dm(touched(frame(), amount=1.0 + index))
    assert input_rate(dm) < 0.1


def test_refreshes_are_no_noise(silence):
    dm = deltafx.convert(small(), refresh_every=1)
    for _ in range(40):
        dm(frame())


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "balanced"}, {"threshold": 0.1}, {"threshold": {"head": 0.1}}, {"input_gate": deltafx.InputGate(2)}],
)
def test_who_set_thresholds_is_not_warned(arguments, silence):
    noisy(deltafx.convert(small(), **arguments), 40)
