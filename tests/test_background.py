"""The background refresh: everything withheld arrives within the frames that it was promised for, and for its price."""

import pytest
import torch
from torch import nn

import deltafx
from deltafx.testing import force_masks
from tests.backends.network import Network, network
from tests.test_calibrate import Deep, deep

BACKENDS = ("reference", "cpu")
WITHIN = 24
LOOSE = {"threshold": 0.5, "input_gate": deltafx.InputGate(30, window=5, dilation=1)}


def pictures(size=(40, 56)):
    """Two that differ a little everywhere, 0..255 normalised."""
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(2, 3, *size, generator=generator)
    second = (first + 0.04 * torch.rand(first.shape, generator=generator)).clamp(0, 1)
    return [(x - 0.45) / 0.225 for x in (first, second)]


def error(dm, model, x):
    got, want = dm(x), model(x)
    got, want = (y if isinstance(y, tuple) else (y,) for y in (got, want))
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(got, want))


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@torch.no_grad()
@pytest.mark.parametrize("offset", [0, 5])
def test_a_standing_picture_is_exact_within_the_frames_promised(backend, offset):
    model = deep()
    first, second = pictures()
    dm = deltafx.convert(model, backend=backend, refresh_within=WITHIN, **LOOSE)
    for _ in range(WITHIN // 2 + offset):
        dm(first)
    assert error(dm, model, second) > 1e-3  # it is withheld
    for _ in range(WITHIN - 1):
        last = error(dm, model, second)
    assert last < 1e-5


@torch.no_grad()
def test_without_it_what_is_withheld_stays_withheld(backend):
    model = deep()
    first, second = pictures()
    dm = deltafx.convert(model, backend=backend, **LOOSE)
    dm(first)
    for _ in range(2 * WITHIN):
        last = error(dm, model, second)
    assert last > 1e-3


@torch.no_grad()
def test_it_costs_what_it_says():
    model = deep()
    first, _ = pictures()
    dm = deltafx.convert(model, backend="cpu", refresh_within=WITHIN, **LOOSE)
    rates = []
    for _ in range(1 + WITHIN):
        dm(first)
        totals = deltafx.report(dm).totals
        rates.append(totals["macs"] / totals["macs_dense"])
    assert 2 / WITHIN < sum(rates[1:]) / WITHIN < 4 / WITHIN  # strips of 7 rows, with a border above and below
    assert max(rates[1:]) < 0.4  # no frame pays for all


@torch.no_grad()
def test_every_kind_of_node_takes_part(backend):
    """Convolutions of all kinds, a gate over the whole picture, a concatenation, an upsampled branch."""
    model = network()
    first, second = pictures((44, 60))
    dm = deltafx.convert(model, backend=backend, refresh_within=WITHIN, options={"check": backend == "cpu"}, **LOOSE)
    dm(first)
    for _ in range(3 * WITHIN):
        last = error(dm, model, second)
    assert last < 1e-5


@torch.no_grad()
def test_raw_frames_take_part(backend):
    model = deep()
    raw = [((x * 0.225 + 0.45) * 255).round().to(torch.uint8).permute(0, 2, 3, 1) for x in pictures()]
    preprocess = deltafx.Preprocess(mean=(0.45,) * 3, std=(0.225,) * 3)
    dm = deltafx.convert(model, backend=backend, refresh_within=WITHIN, preprocess=preprocess, **LOOSE)
    dm(raw[0])
    for _ in range(WITHIN):
        got = dm(raw[1])
    torch.testing.assert_close(got, model(preprocess(raw[1])), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_backends_refresh_the_same_pixels():
    model = network()
    dms = [deltafx.convert(model, backend=each, refresh_within=WITHIN, **LOOSE) for each in BACKENDS]
    generator = torch.Generator().manual_seed(3)
    x = pictures((44, 60))[0]
    for _ in range(WITHIN):
        x = x + 0.02 * torch.randn(x.shape, generator=generator)
        rates = [{node.path: node.update_rate for node in deltafx.report(dm).nodes} for dm in dms if dm(x)]
        assert rates[0].keys() == rates[1].keys()
        assert all(abs(rates[0][path] - rates[1][path]) < 0.01 for path in rates[0])


@torch.no_grad()
def test_prescribed_masks_leave_nothing_undone():
    model = deep()
    first, second = pictures()
    dm = deltafx.convert(model, refresh_within=WITHIN, **LOOSE)
    dm(first)
    with force_masks(dm, torch.zeros(40, 56)):
        for _ in range(WITHIN):
            assert dm(second).isfinite().all()


def fade(dm, frames):
    """A third of a grey level a frame, far below every threshold; the last picture."""
    base = pictures()[0]
    for number in range(frames):
        x = base + number * 0.3 / 255 / 0.225
        got = dm(x)
    return got, x


@torch.no_grad()
def test_a_slow_fade_arrives(backend):
    model = deep()
    gate = deltafx.InputGate(6, window=7, dilation=5)
    got, x = fade(deltafx.convert(model, backend=backend, threshold=0.1, input_gate=gate), 400)
    want, start = model(x), model(pictures()[0])
    assert (got - want).norm() < 0.35 * (start - want).norm()  # what stays is what thresholds allow


@torch.no_grad()
def test_what_a_slow_fade_leaves_does_not_grow_with_it():
    model = deep()
    errors = []
    for frames in (150, 200, 350, 400):
        got, x = fade(deltafx.convert(model, mode="balanced"), frames)
        errors.append((got - model(x)).norm().item())
    assert max(errors[2:]) < 1.3 * max(errors[:2])


@torch.no_grad()
def test_after_a_slow_fade_a_background_refresh_makes_it_exact(backend):
    model = deep()
    dm = deltafx.convert(model, backend=backend, mode="balanced", refresh_within=WITHIN)
    _, x = fade(dm, 100)
    for _ in range(WITHIN):
        last = error(dm, model, x)
    assert last < 1e-5


def test_the_argument_is_checked():
    model = Deep().eval()
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(deltafx.ConvertError, match="refresh_within: a number of frames"):
            deltafx.convert(model, refresh_within=wrong)
    with pytest.raises(deltafx.ConvertError, match="has no background refresh; use refresh_every"):
        deltafx.convert(model, refresh_within=8, payload="difference")


def test_in_exact_mode_there_is_nothing_to_do():
    dm = deltafx.convert(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).eval(), refresh_within=8)
    x = pictures()[0]
    dm(x)
    dm(x)
    assert deltafx.report(dm).totals["macs"] == 0


def test_the_network_of_all_kernels_is_what_is_tested():
    assert isinstance(network(), Network)
