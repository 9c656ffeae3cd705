"""`verify`: the first node that is wrong is named."""

import pytest
import torch
from torch import nn

import deltafx
from deltafx.backends.reference import ReferenceBackend, ReferenceKernel
from tests.small import PAYLOADS, dense, frame, input_rate, small, touched


class Chain(nn.Module):
    """Linear and nonlinear nodes, a folded batch norm, a concatenation, overwritten tensors, an output of two parts."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 1)
        self.c = nn.Conv2d(4, 4, 3, padding=1)
        self.d = nn.Conv2d(8, 4, 1)
        self.e = nn.Linear(4, 3)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.b(self.norm(self.a(x)))
        y = self.act(self.c(x))
        y += x
        z = self.d(torch.cat([x, y], 1))
        return z, self.e(z.mean((2, 3)))


LAYERS = ("a", "b", "c", "d", "e")


def chain():
    torch.manual_seed(0)
    model = Chain().eval()
    model.norm.running_var.uniform_(0.5, 2)
    model.norm.running_mean.normal_()
    return model


def clip():
    return [frame(), touched(frame()), touched(frame(), 1, 2.0)]


@pytest.fixture(params=PAYLOADS)
def payload(request):
    return request.param


def test_a_right_model_is_found_right(payload):
    model = chain()
    result = deltafx.verify(model, deltafx.convert(model, payload=payload), clip())
    assert result.ok
    assert (result.node, result.frame) == (None, None)
    assert set(LAYERS) <= set(result.errors)
    assert result.error == max(result.errors.values()) < 1e-5
    assert str(result).startswith(f"{len(result.errors)} nodes agree with the dense model; largest relative error")


@pytest.mark.parametrize("layer", LAYERS)
def test_a_wrong_weight_is_found_in_its_node(payload, layer):
    model = chain()
    dm = deltafx.convert(model, payload=payload)
    weight = dm.get_submodule(layer).head.weight
    weight.data = weight.data * 1.01
    result = deltafx.verify(model, dm, clip())
    assert not result.ok
    assert (result.node, result.frame) == (layer, 0)
    assert result.error > 1e-3
    assert str(result).startswith(f"{layer} is the first wrong node, in frame 0: relative error")


def test_of_two_wrong_nodes_the_first_is_named(payload):
    model = chain()
    dm = deltafx.convert(model, payload=payload)
    for layer in ("d", "b"):
        weight = dm.get_submodule(layer).head.weight
        weight.data = weight.data * 1.01
    assert deltafx.verify(model, dm, clip()).node == "b"


def test_a_state_that_goes_wrong_later_is_found_in_its_frame(payload):
    model = chain()
    dm = deltafx.convert(model, payload=payload)

    class Forgets(ReferenceKernel):
        """Misses every change of the third frame."""

        frames = 0

        def run(self, node, state, inputs, plan):
            self.frames += 1
            delta = super().run(node, state, inputs, plan)
            if self.frames == 3:
                delta.mask.zero_()
                delta.payload.zero_()
            return delta

    class Backend(ReferenceBackend):
        def bind(self, node, state, inputs, plan):
            return Forgets()

    dm.c.backend = Backend()
    result = deltafx.verify(model, dm, clip())
    assert (result.node, result.frame) == ("c", 2)


def test_it_starts_in_full_and_leaves_no_hooks(payload):
    model = chain()
    dm = deltafx.convert(model, payload=payload)
    dm(frame(3))
    assert deltafx.verify(model, dm, clip()).ok
    assert not any(module._forward_hooks for module in dm.modules())
    for got, want in zip(dm(frame()), dense(model, frame()), strict=True):
        torch.testing.assert_close(got, want)
    assert input_rate(dm) < 0.1


def test_the_callers_frames_are_not_changed(payload):
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)).eval()
    frames = clip()
    assert deltafx.verify(model, deltafx.convert(model, payload=payload), frames).ok
    assert torch.equal(frames[0], frame())


def test_with_thresholds_a_tolerance_must_be_given(payload):
    model = chain()
    dm = deltafx.convert(model, payload=payload, threshold=0.01)
    with pytest.raises(ValueError, match="this model withholds small changes; give the error you accept"):
        deltafx.verify(model, dm, clip())
    assert deltafx.verify(model, dm, clip(), tolerance=0.1).ok
    assert not deltafx.verify(model, dm, [frame(), frame() + 0.005], tolerance=1e-4).ok


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="no node of the model is in the converted one"):
        deltafx.verify(nn.Sequential(nn.Conv2d(3, 2, 1)).eval(), deltafx.convert(chain()), clip())


def test_half_precision_is_judged_by_its_own_rounding(payload):
    model = small().half()
    assert deltafx.verify(model, deltafx.convert(model, payload=payload), [x.half() for x in clip()]).ok
