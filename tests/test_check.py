"""The debug checker finds the bugs it is there for, and nothing in a sound network."""

import pytest
import torch
from torch import nn

import deltafx
from deltafx.backends import reference
from deltafx.check import CheckError
from deltafx.ops import Conv
from deltafx.ops.window import window_mask
from deltafx.plan import Plan


class Network(nn.Module):
    """Dilated convolution, residual, concatenation, and a gate."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=2, dilation=2)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(16, 4, 3, stride=2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        y = torch.relu(self.second(x) + x)
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.last(torch.cat([x, y], 1))


def clip(count=6):
    torch.manual_seed(1)
    frame = torch.randn(2, 3, 17, 13)
    frames = [frame]
    for index in range(1, count):
        frame = frame.clone()
        frame[index % 2, :, index : index + 3, 2:5] += torch.randn(3, 3, 3)
        frames.append(frame)
    return frames


def run(dm, frames):
    for frame in frames:
        dm(frame)


@pytest.mark.parametrize("payload", ["value", "difference"])
@pytest.mark.parametrize("mode", ["exact", "balanced", "fast"])
def test_finds_nothing_in_a_sound_network(payload, mode):
    dm = deltafx.convert(Network().eval(), payload=payload, mode=mode, options={"check": True})
    frames = clip()
    frames[3][0, :, 4, 4] = float("nan")
    run(dm, frames[:4])
    deltafx.reset(dm, streams=[1])
    run(dm, frames[4:])


@pytest.mark.parametrize("payload", ["value", "difference"])
def test_finds_a_mask_that_is_too_small(payload, monkeypatch):
    def eroded(self, masks, inputs, output):
        mask = candidates(self, masks, inputs, output).clone()
        mask[:, :, : mask.shape[2] // 2] = 0
        return mask

    candidates = Conv.candidates
    monkeypatch.setattr(Conv, "candidates", eroded)
    dm = deltafx.convert(Network().eval(), payload=payload, options={"check": True}, backend="reference")
    with pytest.raises(CheckError, match=r"first: .*rule"):
        run(dm, clip())


def test_finds_a_stale_write(monkeypatch):
    def forgetful(payload, state, leaf, new, plan):
        kept = leaf.value.clone()
        delta = emit(payload, state, leaf, new, plan)
        if state.path == "second" and plan.frame == 3:
            leaf.value.copy_(kept)
        return delta

    emit = reference.emit
    monkeypatch.setattr(reference, "emit", forgetful)
    dm = deltafx.convert(Network().eval(), options={"check": True}, backend="reference")
    with pytest.raises(CheckError, match=r"second: .*rule 3"):
        run(dm, clip())


@pytest.mark.parametrize(("payload", "rule"), [("value", "refresh"), ("difference", "rule 3")])
def test_finds_a_missed_refresh(payload, rule, monkeypatch):
    def deaf(self, path):
        state = begin_node(self, path)
        if path == "second" and self.frame == 3:
            state.rows = torch.zeros_like(state.rows)
        return state

    begin_node = Plan.begin_node
    monkeypatch.setattr(Plan, "begin_node", deaf)
    dm = deltafx.convert(Network().eval(), payload=payload, options={"check": True})
    frames = [clip(1)[0].zero_()] * 3 + clip()
    run(dm, frames[:3])
    deltafx.reset(dm, streams=[0])
    with pytest.raises(CheckError, match=f"second: .*{rule}"):
        run(dm, frames[2:4])


def test_finds_state_shared_by_two_nodes():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.b(self.a(x))

    dm = deltafx.convert(Twice().eval(), options={"check": True}, backend="reference")
    frames = clip()
    run(dm, frames[:1])
    states = dm.runtime.plans[0].nodes
    states["b"].leaves = states["a"].leaves
    with pytest.raises(CheckError, match="rule"):
        run(dm, frames[1:])


def test_finds_a_window_without_its_dilation(monkeypatch):
    def undilated(self, masks, inputs, output):
        ones = (1,) * self.rank
        return window_mask(masks[0], inputs[0].shape, output.shape, self.kernel, self.stride, ones, self.padding)

    monkeypatch.setattr(Conv, "candidates", undilated)
    dm = deltafx.convert(Network().eval(), options={"check": True}, backend="reference")
    with pytest.raises(CheckError, match=r"first: .*rule 3"):
        run(dm, clip())
