"""What is measured on a device is kept for it, and changes nothing but the time."""

import json

import pytest
import torch
from torch import nn

import deltafx
from deltafx.converted import graphs_of

pytestmark = pytest.mark.cuda
tilings = pytest.importorskip("deltafx.backends.cuda.tilings", reason="built without CUDA")


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 192, 1), nn.ReLU(), nn.Conv2d(192, 7, 3)]
    return nn.Sequential(*layers).eval().cuda().half()


def kernels(dm) -> list:
    states = graphs_of(dm)[0].runtime.plans[0].nodes.values()
    return [state.kernel for state in states if getattr(state.kernel, "tilings", None)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTAFX_CACHE", str(tmp_path))
    tilings.measured.cache_clear()
    yield tmp_path
    tilings.measured.cache_clear()


@pytest.fixture
def frames():
    torch.manual_seed(1)
    frame = torch.randn(2, 16, 40, 56, device="cuda", dtype=torch.half)
    moved = [frame.clone() for _ in range(4)]
    for k, each in enumerate(moved):
        each[:, :, 5 + k : 12 + k, 20:30] += 1
    return moved


@torch.no_grad()
def test_tuning_is_kept_and_found_again(cache, frames):
    model = network()
    dm = deltafx.convert(model, backend="cuda")
    steps = []
    tuning = deltafx.tune(dm, frames, step=lambda: steps.append(1))
    assert len(tuning.convolutions) == len(kernels(dm)) == len(steps) == 3
    assert tuning.file.is_relative_to(cache)
    kept = json.loads(tuning.file.read_text())
    assert {c.convolution: [c.tile, c.parts] for c in tuning.convolutions} == kept
    tilings.measured.cache_clear()
    again = deltafx.convert(model, backend="cuda")
    for frame in frames:
        again(frame)
    assert [k.arguments[-2] for k in kernels(again)] == [k.arguments[-2] for k in kernels(dm)]
    assert all(k.arguments[-2] for k in kernels(again))


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.0, 0.05])
def test_every_tiling_computes_the_same(cache, frames, threshold):
    model = network()
    dm = deltafx.convert(model, backend="cuda", threshold=threshold, options={"dense_switch": False})
    plain = deltafx.convert(model, backend="reference", threshold=threshold)
    for frame in frames:
        dm(frame), plain(frame)
    for number in range(max(len(k.tilings.possible) for k in kernels(dm))):
        for kernel in kernels(dm):
            possible = kernel.tilings.possible
            kernel.take(list(possible[number % len(possible)]))
        graphs_of(dm)[0].runtime.plans[0].frame_graph = None
        deltafx.reset(dm), deltafx.reset(plain)
        for frame in frames:
            got, want = dm(frame), plain(frame)
            assert (got - want).norm() <= 3e-3 * want.norm()


@torch.no_grad()
def test_a_frame_after_tuning_is_in_full_and_right(cache, frames):
    model = network()
    dm = deltafx.convert(model, backend="cuda", options={"dense_switch": False})
    deltafx.tune(dm, frames)
    for k, frame in enumerate(frames):
        got, want = dm(frame), model(frame)
        assert (got - want).norm() <= 3e-3 * want.norm()
        assert (deltafx.report(dm).nodes[0].update_rate == 1.0) == (k == 0)


@torch.no_grad()
def test_what_a_file_says_wrongly_is_left_out(cache, frames):
    model = network()
    dm = deltafx.convert(model, backend="cuda")
    dm(frames[0])
    device = kernels(dm)[0].tilings.device
    file = tilings.file_of(device)
    file.parent.mkdir(parents=True)
    keys = [k.tilings.key for k in kernels(dm)]
    file.write_text(json.dumps({keys[0]: ["huge", 1], keys[1]: ["small", 64], keys[2]: ["small", 1]}))
    tilings.measured.cache_clear()
    again = deltafx.convert(model, backend="cuda")
    again(frames[0])
    assert [k.arguments[-2] for k in kernels(again)] == [[], [], list(kernels(again)[2].tilings.possible[0])]
    file.write_text("no JSON")
    tilings.measured.cache_clear()
    assert tilings.measured(device) == {}


def test_a_wrong_tiling_is_refused(cache, frames):
    dm = deltafx.convert(network(), backend="cuda")
    dm(frames[0])
    kernels(dm)[0].take([1, 3])
    with pytest.raises((ValueError, RuntimeError), match="tiling: none of those"):
        dm(frames[1])
