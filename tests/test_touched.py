"""Refresh of what was touched: what came and went leaves nothing behind, and what stood is not paid for."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import deltafx
from deltafx.touched import Touched
from tests.backends.network import network
from tests.test_background import BACKENDS, error, pictures
from tests.test_calibrate import Deep, deep

EVERY = 6
LOOSE = {"threshold": 0.5, "input_gate": deltafx.InputGate(10, window=3, dilation=1)}


def passing(size=(40, 56), streams=1):
    """A square comes in over a textured background, and leaves a paler one behind; then all stands."""
    background = pictures(size)[0][:1].repeat(streams, 1, 1, 1)
    frames = [background]
    for step in range(4):
        frame = background.clone()
        frame[..., 12:20, 4 + 6 * step : 12 + 6 * step] += 1.5
        frames.append(frame)
    left = background.clone()
    left[..., 12:20, 4:30] += 0.2  # withheld by the nodes inside
    return [*frames, left]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@torch.no_grad()
def test_what_came_and_went_leaves_nothing_behind(backend):
    model, frames = deep(), passing()
    withheld = deltafx.convert(model, backend=backend, **LOOSE)
    dm = deltafx.convert(model, backend=backend, refresh_touched=EVERY, **LOOSE)
    for frame in [*frames, *[frames[-1]] * EVERY]:
        stays, last = error(withheld, model, frame), error(dm, model, frame)
    assert stays > 1e-2
    assert last < 0.2 * stays  # what reaches beyond the touched pixels is withheld as ever


@torch.no_grad()
def test_everything_touched_is_everything_anew(backend):
    """Every kind of node takes part: after a change of the whole picture, the next round makes it exact."""
    model = network()
    first, second = pictures((44, 60))
    gate = deltafx.InputGate(1)
    dm = deltafx.convert(model, backend=backend, threshold=0.5, input_gate=gate, refresh_touched=EVERY)
    dm(first)
    for _ in range(EVERY - 1):
        before = error(dm, model, second + 0.5)
    assert before > 1e-3
    assert error(dm, model, second + 0.5) < 1e-5


@torch.no_grad()
def test_a_picture_that_stands_costs_nothing(backend):
    model, frames = deep(), passing()
    dm = deltafx.convert(model, backend=backend, refresh_touched=EVERY, **LOOSE)
    for _ in range(3 * EVERY):
        dm(frames[0])
        macs = deltafx.report(dm).totals["macs"]
    assert macs == 0


@torch.no_grad()
def test_costs_a_part_of_a_full_frame():
    model, frames = deep(), passing()
    dm = deltafx.convert(model, backend="cpu", refresh_touched=EVERY, **LOOSE)
    for frame in [*frames, frames[-1]]:
        dm(frame)
    totals = deltafx.report(dm).totals
    assert 0.05 < totals["macs"] / totals["macs_dense"] < 0.5


@torch.no_grad()
def test_backends_compute_the_same_pixels_anew():
    model, frames = deep(), passing()
    dms = [deltafx.convert(model, backend=each, refresh_touched=EVERY, **LOOSE) for each in BACKENDS]
    for frame in [*frames, frames[-1]]:
        outs = [dm(frame) for dm in dms]
        rates = [{node.path: node.update_rate for node in deltafx.report(dm).nodes} for dm in dms]
        assert all(abs(rates[0][path] - rates[1][path]) < 0.01 for path in rates[0])
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_streams_are_told_apart(backend):
    model, frames = deep(), passing(streams=2)
    still = torch.cat([frames[0][:1]] * 2)
    dm = deltafx.convert(model, backend=backend, refresh_touched=EVERY, **LOOSE)
    one = deltafx.convert(model, backend=backend, refresh_touched=EVERY, **LOOSE)
    for frame in [*frames, *[frames[-1]] * EVERY]:
        moved = torch.cat([still[:1], frame[1:]])
        got, alone = dm(moved), one(frame[1:])
    torch.testing.assert_close(got[1:], alone, rtol=1e-4, atol=1e-5)
    assert (got[:1] - model(still[:1])).norm() < 1e-4 * got.norm()


@torch.no_grad()
def test_a_reset_starts_the_rounds_anew(backend):
    model, frames = deep(), passing()
    dm, other = (deltafx.convert(model, backend=backend, refresh_touched=EVERY, **LOOSE) for _ in range(2))
    for frame in frames[:4]:
        dm(frame)
    deltafx.reset(dm)
    for frame in [*frames, frames[-1]]:
        torch.testing.assert_close(dm(frame), other(frame))


SHAPES = [(2, 1, 16, 16), (2, 1, 5, 9), (2, 1, 2, 2), (2, 1, 1, 1), (2, 5, 1), (1, 3), (2, 1, 32, 48)]


def over(mask, shape):
    touched = Touched(mask, SHAPES)
    touched.mask.copy_(mask)
    touched.pool()
    return touched.over(shape).expand(shape)


def test_masks_of_other_forms():
    mask = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    mask[1, 0, 15, 15] = 1
    assert torch.equal(over(mask, (2, 1, 16, 16)), mask)
    assert over(mask, (2, 1, 2, 2)).flatten(1).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert over(mask, (2, 1, 1, 1)).flatten().tolist() == [0, 1]
    assert over(mask, (2, 5, 1)).flatten(1).tolist() == [[0] * 5, [1] * 5]
    assert over(mask, (1, 3)).tolist() == [[1] * 3]
    assert over(mask[:, :, 0, 0], (2, 1, 2, 2)).sum() == 0  # an input that is no picture
    assert over(mask[:, :, :, 15], (2, 1, 2, 2)).flatten(1).tolist() == [[0] * 4, [1] * 4]
    assert over(mask[:, :, 15:, 15:], (1, 3)).tolist() == [[1] * 3]  # one pixel


@pytest.mark.parametrize("shape", SHAPES[:4] + SHAPES[6:])
def test_a_coarse_grid_misses_no_pixel_and_has_few_too_many(shape):
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(2, 1, 16, 16, generator=generator) < 0.02).to(torch.uint8)
    found, least = over(mask, shape), F.adaptive_max_pool2d(mask.float(), shape[2:]).to(torch.uint8)
    assert (found >= least).all()
    assert found.sum() <= F.max_pool2d(least.float(), 3, 1, 1).sum()


class Returned(TorchDispatchMode):
    """Operators that return memory of their own."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.names.append(str(func))
        return result


@torch.no_grad()
def test_after_the_first_frame_it_asks_for_no_memory():
    model, (first, *_) = network(), pictures((44, 60))
    dm = deltafx.convert(model, threshold=0.5, input_gate=deltafx.InputGate(1), refresh_touched=EVERY, backend="cpu")
    dm(first)
    (plan,) = dm.runtime.plans
    inputs = [leaf for node in plan.inputs for leaf in node.leaves]
    refreshed = torch.ones(2, dtype=torch.bool)
    with Returned() as returned:
        for frame in range(2 * EVERY + 1):
            plan.background.begin(frame)
            plan.background.note(inputs, refreshed if frame == 1 else None)
    assert returned.names == []
    assert plan.background.touched


def test_the_argument_is_checked():
    model = Deep().eval()
    with pytest.raises(deltafx.ConvertError, match="refresh_touched: a number of frames"):
        deltafx.convert(model, refresh_touched=0)
    with pytest.raises(deltafx.ConvertError, match="has no background refresh; use refresh_every"):
        deltafx.convert(model, refresh_touched=8, payload="difference")
    with pytest.raises(deltafx.ConvertError, match="refresh_within and refresh_touched: both see to"):
        deltafx.convert(model, refresh_touched=8, refresh_within=8)
