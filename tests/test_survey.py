"""Filling a plan: what has no delta form is refused with a reason or handled, and the state's size is known before."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import deltafx
from benchmarks.state import planned
from deltafx.backends.reference import ReferenceBackend
from deltafx.node import FrameModule
from tests.small import PAYLOADS, dense, frame, input_rate, small, touched, was_full


class Calls(nn.Module):
    """A function between two convolutions. One that is wrapped must be called by its name to be a node."""

    def __init__(self, function):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.after(self.function(self.before(x)))


def calls(function):
    torch.manual_seed(0)
    return Calls(function).eval()


@pytest.fixture(params=PAYLOADS)
def payload(request):
    return request.param


# ---------------------------------------------------------------------------------------------------------------------
# Islands


@fx.wrap
def inverse(x):
    """Fails on zeros, so it must never see a buffer before a frame stands in it."""
    return torch.linalg.inv(x + 10 * torch.eye(x.shape[-1], device=x.device) * (x.abs().amax() > 0))


def test_an_island_only_ever_sees_frames(payload):
    model = calls(lambda x: inverse(x))
    dm = deltafx.convert(model, payload=payload)
    for x in (frame(), touched(frame())):
        torch.testing.assert_close(dm(x), dense(model, x))


@fx.wrap
def doubled_in_place(x):
    return x.mul_(2)


def test_an_island_that_changes_its_input_is_refused(payload):
    dm = deltafx.convert(calls(lambda x: doubled_in_place(x)), payload=payload)
    with pytest.raises(
        deltafx.FrameError, match=r"^doubled_in_place: doubled_in_place changes its input in place .*clone"
    ):
        dm(frame())


class Doubling(nn.Module):
    def forward(self, x):
        return doubled_in_place(x)


def test_the_callers_frame_survives_the_refusal():
    dm = deltafx.convert(Doubling().eval())
    for make in (torch.inference_mode, torch.no_grad):
        with make():
            x = frame()
        with pytest.raises(deltafx.FrameError, match="changes its input in place"):
            dm(x)
        assert torch.equal(x, frame())


@fx.wrap
def mean_of(x):
    return x.mean().item()


def test_a_number_read_from_the_frame_is_refused(payload):
    dm = deltafx.convert(calls(lambda x: x * mean_of(x)), payload=payload)
    with pytest.raises(deltafx.FrameError, match=r"^mean_of: mean_of turns the frame into float, .*Keep it a tensor"):
        dm(frame())


@fx.wrap
def found(x):
    return torch.nonzero(x > 1).float()


def test_a_shape_that_depends_on_the_picture_is_refused(payload):
    model = calls(lambda x: F.pad(found(x)[None, None], (4, 4)).expand(-1, 4, -1, -1))
    dm = deltafx.convert(model, payload=payload)
    torch.testing.assert_close(dm(frame()), dense(model, frame()))
    refusal = r"^found: its output is a tensor of shape \(\d+, 4\) in this frame and was a tensor of shape \(\d+, 4\) b"
    with pytest.raises(deltafx.FrameError, match=refusal):
        dm(frame(1))
    torch.testing.assert_close(dm(frame()), dense(model, frame()))  # it is in full, and fits
    assert was_full(dm)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.mean().item(), lambda x: x[:, :, :5] * torch.nonzero(x > 1).float().mean(),
        lambda x: x + x[x > 0].mean(), lambda x: x + x[(x > 0) & (x < 3), ].mean(),
        lambda x: x * x.masked_select(x > 1).numel(), lambda x: x * len(x.unique().tolist()),
    ],
)  # fmt: skip
def test_where_that_is_known_beforehand_its_parts_are_graphs(function, payload):
    model = calls(function)
    dm = deltafx.convert(model, payload=payload)
    for n in range(4):
        torch.testing.assert_close(dm(frame(n)), dense(model, frame(n)), rtol=1e-4, atol=1e-5)
    assert set(dm.parts) == {"before", "after"}


def test_an_output_may_be_empty(payload):
    model = calls(lambda x: x[:, :, :0])
    model.after = nn.Identity()
    dm = deltafx.convert(model, payload=payload)
    for n in range(3):
        assert dm(frame(n)).shape == (2, 4, 0, 8)
    assert deltafx.report(dm).frames == 3


@fx.wrap
def pieces(x):
    return list(x.split(1 + int(x.amax() > 100), 1))


def test_a_number_of_outputs_that_depends_on_the_picture_is_refused(payload):
    model = calls(lambda x: pieces(x)[0].expand(-1, 4, -1, -1))
    dm = deltafx.convert(model, payload=payload)
    torch.testing.assert_close(dm(frame()), dense(model, frame()))
    with pytest.raises(deltafx.FrameError, match="pieces: its output is 2 values in this frame and was 4 before"):
        dm(1000 * frame())


@fx.wrap
def with_maximum(x):
    return x, round(x.amax().item(), 3)


def test_a_number_beside_a_tensor_may_not_change(payload):
    def scaled(x):
        result = with_maximum(x)
        return result[0] * result[1]

    model = calls(scaled)
    dm = deltafx.convert(model, payload=payload)
    dm(frame())
    torch.testing.assert_close(dm(frame()), dense(model, frame()))
    with pytest.raises(
        deltafx.FrameError, match=r"with_maximum: its output is \d+\.\d+ in this frame and was \d\.\d+ b"
    ):
        dm(100 * frame())


def test_random_numbers_are_drawn_in_every_frame(payload):
    model = calls(lambda x: F.dropout(x, 0.5, training=True))
    dm = deltafx.convert(model, payload=payload, example_inputs=frame())
    outputs = [dm(frame()) for _ in range(3)]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])
    assert deltafx.report(dm)["dropout"].kernel == "dense"
    mean = torch.stack([dm(frame()) for _ in range(300)]).mean(0)
    torch.testing.assert_close(mean, dense(calls(lambda x: x), frame()), atol=0.25, rtol=0)


@fx.wrap
def noisy(x):
    """Nothing in its name says that it draws random numbers."""
    return x + torch.empty_like(x).normal_()


def test_random_numbers_are_noticed_whatever_draws_them(payload):
    dm = deltafx.convert(calls(lambda x: noisy(x)), payload=payload)
    dm(frame())
    assert not torch.equal(dm(frame()), dm(frame()))


def drawn(size):
    return torch.empty(size).normal_()


def with_source_of_numbers(function):
    """Its argument is the width of the frame."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    numbers = graph.call_function(function, (graph.call_method("size", (x, 3)),))
    graph.output(graph.call_function(torch.add, (x, numbers)))
    return fx.GraphModule(nn.Module(), graph).eval()


def test_random_numbers_that_do_not_depend_on_the_frame_are_refused():
    dm = deltafx.convert(with_source_of_numbers(drawn))
    with pytest.raises(deltafx.FrameError, match=r"drawn: .* draws random numbers that do not depend on the frame"):
        dm(frame())


def test_random_numbers_of_a_known_function_are_drawn_in_every_frame(payload):
    dm = deltafx.convert(with_source_of_numbers(torch.rand), payload=payload)
    assert not torch.equal(dm(frame()), dm(frame()))


def test_examples_verify_a_model_that_draws_random_numbers():
    state = torch.get_rng_state()
    deltafx.convert(calls(lambda x: F.dropout(x, 0.5, training=True)), example_inputs=frame())
    deltafx.convert(calls(lambda x: x), example_inputs=frame())
    torch.set_rng_state(state)


# ---------------------------------------------------------------------------------------------------------------------
# Buffers


class Joined(nn.Module):
    """Concatenations of convolutions, of a part and its whole, of the same tensor twice; views of what is joined."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        a, b = torch.relu(self.a(x)), self.b(x)
        first = torch.cat([a, b], 1)
        second = torch.cat([b, b[:, :1], b], 1)
        n, c, h, w = b.shape
        left, right = first.chunk(2, 1)
        return left.flatten(1), right + 1, second.sort(1)[0], b.view(n * c, h * w)


def test_buffers_that_are_parts_of_others_hold_what_they_should(payload):
    model = small(Joined)
    dm = deltafx.convert(model, payload=payload, options={"check": True})
    for x in (frame(), touched(frame()), frame(1)):
        for got, want in zip(dm(x), dense(model, x), strict=True):
            torch.testing.assert_close(got, want)


NETWORKS = {
    "joined": lambda: small(Joined),
    "residual": small,
    "island": lambda: calls(lambda x: inverse(x)),
    "pooled": lambda: calls(lambda x: x * x.mean((2, 3), keepdim=True)),
    "bias only": lambda: nn.Conv2d(3, 4, 3).eval(),
    "no state": lambda: nn.Identity().eval(),
}


@pytest.mark.parametrize("threshold", [None, 0.1])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_predicted_state_is_what_the_report_finds(name, payload, threshold):
    dm = deltafx.convert(NETWORKS[name](), payload=payload, threshold=threshold)
    dm(frame())
    dm(touched(frame()))
    totals = deltafx.report(dm).totals
    assert totals["state_bytes"] == totals["predicted_state_bytes"] > 0


def needed(payload, size=8):
    dm = deltafx.convert(small(), payload=payload)
    dm(frame(size=size))
    return deltafx.report(dm).totals["predicted_state_bytes"]


def test_a_state_that_is_too_large_is_refused_with_its_size(payload):
    model = small()
    limit = needed(payload)
    dm = deltafx.convert(model, payload=payload, options={"max_state_bytes": limit})
    dm(frame())
    larger = needed(payload, size=9)
    with pytest.raises(deltafx.FrameError, match=f"takes {larger:,} bytes; .*'max_state_bytes': {limit}}} allows less"):
        dm(frame(size=9))
    torch.testing.assert_close(dm(touched(frame())), dense(model, touched(frame())))
    assert input_rate(dm) < 0.1


def test_a_limit_of_one_byte_less_is_refused(payload):
    dm = deltafx.convert(small(), payload=payload, options={"max_state_bytes": needed(payload) - 1})
    with pytest.raises(deltafx.FrameError, match="max_state_bytes"):
        dm(frame())
    deltafx.reset(dm)
    assert dm(frame(size=7)).shape == (2, 2, 7, 7)


def test_older_shapes_make_room(payload):
    model = small()
    dm = deltafx.convert(model, payload=payload, options={"max_state_bytes": needed(payload) + needed(payload, 7)})
    for size in (7, 8, 7, 6):
        dm(frame(size=size))
    assert sum(plan.predicted_bytes for plan in dm.runtime.plans) <= dm.runtime.settings.options.max_state_bytes
    dm(frame(size=7))
    assert input_rate(dm) == 0
    dm(frame(size=8))
    assert was_full(dm)


def test_nested_concatenations_share_one_buffer():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(3))

        def forward(self, x):
            return torch.cat([torch.cat([self.a(x), self.b(x)], 1), self.c(x)], 1)

    dm = deltafx.convert(Nested().eval(), options={"check": True})
    for seed in range(3):
        dm(frame(seed))
    nodes = dm.runtime.plans[0].nodes
    outer = nodes["cat#2"].leaves[0].value.untyped_storage().data_ptr()
    for path in ("a", "b", "cat", "c"):
        assert nodes[path].leaves[0].value.untyped_storage().data_ptr() == outer
    assert nodes["cat"].leaves[0].aliased
    assert nodes["cat#2"].leaves[0].aliased


class Pieces(ReferenceBackend):
    """Whose buffers lie as those of a GPU."""

    alignment, frame_alignment = 16, 8


class Readers(nn.Module):
    def __init__(self, *readers):
        super().__init__()
        self.readers = nn.ModuleList(readers)

    def forward(self, x):
        return [reader(x) for reader in self.readers]


READERS = {
    "a convolution": ((nn.Conv2d(3, 8, 3),), torch.bfloat16, 4),
    "two": ((nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 1, stride=2)), torch.bfloat16, 4),
    "one of larger numbers": ((nn.Conv2d(3, 8, 3),), torch.float32, 4),
    "one of more channels": ((nn.Conv2d(5, 8, 3),), torch.bfloat16, 8),
    "one with groups": ((nn.Conv2d(3, 3, 3, groups=3),), torch.bfloat16, 8),
    "a pooling too": ((nn.Conv2d(3, 8, 3), nn.AvgPool2d(3)), torch.bfloat16, 8),
}


@pytest.mark.parametrize("name", READERS)
def test_pixels_of_a_frame_lie_closer_where_only_convolutions_read_them(name):
    readers, dtype, channels = READERS[name]
    dm = deltafx.convert(Readers(*readers).to(dtype).eval())
    for module in dm.modules():
        if isinstance(module, FrameModule):
            module.backend = Pieces()
    plan = planned(dm, torch.zeros(1, readers[0].weight.shape[1] * readers[0].groups, 8, 8, dtype=dtype))
    (leaf,) = plan.inputs[0].leaves
    assert leaf.layout()[1][-1] == channels
