"""Models that cannot be traced whole: which of their modules become delta graphs, and that the whole stays exact."""

import copy
import io
import threading
import warnings

import pytest
import torch
from torch import nn

import deltafx
from deltafx.parts import KEPT_FORMS, MOST_FORMS, NOT_STREAMS
from deltafx.plan import Plan
from tests.passes.helpers import TOLERANCE

RTOL = TOLERANCE[torch.float32]


def decide(x):
    """What no graph can hold."""
    if x.sum() > 1e9:
        raise ValueError


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x):
        fine = self.stem(x)
        return {"fine": fine, "coarse": self.down(fine)}


class Head(nn.Module):
    """Takes a list, as many as there are."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, levels, scale=None):
        scale = 1.0 if scale is None else scale
        return [torch.relu(self.conv(level)) * scale for level in levels]


class PerProposal(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, rows):
        return self.layer(rows)


class Detector(nn.Module):
    """Decides by what it sees how many rows there are."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head, self.boxes = Backbone(), Head(), PerProposal()

    def forward(self, images):
        x = torch.stack(list(images)) if isinstance(images, (list, tuple)) else images
        features = self.backbone(x)
        maps = self.head(list(features.values()))
        rows = features["fine"].permute(0, 2, 3, 1)
        decide(x)
        chosen = rows[rows.sum(-1) > rows.sum(-1).mean()]
        scores = self.boxes(chosen[:5])
        return [{"maps": maps, "scores": scores} for _ in range(1)]


def build(kind=Detector):
    torch.manual_seed(0)
    model = kind().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    return model


def frames(count=4, streams=2, height=12, width=14):
    generator = torch.Generator().manual_seed(1)
    frame = torch.rand(streams, 3, height, width, generator=generator)
    for n in range(count):
        frame = frame.clone()
        frame[n % streams, :, 2 + n : 4 + n, 5:8] += 0.3
        yield frame


def assert_same(got, want):
    got, want = deltafx.measure.tensors_of(got), deltafx.measure.tensors_of(want)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=RTOL, atol=RTOL)


def assert_follows(model, dm, clip):
    for frame in clip:
        with torch.no_grad():
            assert_same(dm(frame), model(frame))


# ---------------------------------------------------------------------------------------------------------------------
# Which parts there are


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("payload", ["value", "difference"])
def test_the_largest_modules_that_can_be_traced(backend, payload):
    model = build()
    dm = deltafx.convert(model, backend=backend, payload=payload, options={"check": True})
    assert isinstance(dm, deltafx.DeltaParts)
    assert_follows(model, dm, frames())
    assert list(dm.parts) == ["backbone", "head"]
    assert all(isinstance(graph, deltafx.DeltaGraphModule) for graph in dm.parts.values())


def test_the_second_takes_over_what_the_first_knows(monkeypatch):
    found = []
    known_changes = Plan.known_changes
    monkeypatch.setattr(Plan, "known_changes", lambda *args: found.append(known_changes(*args)) or found[-1])
    dm = deltafx.convert(build())
    for frame in frames(3):
        found.clear()
        dm(frame)
    assert [mask is None for mask in found] == [True, False, False]  # the frame; both levels


def test_what_is_not_in_a_graph_is_counted():
    dm = deltafx.convert(build())
    for frame in frames(2):
        dm(frame)
    report = deltafx.report(dm)
    row = report["boxes.layer"]
    assert (row.operator, row.kernel, row.macs, row.macs_dense) == ("Linear", "eager", 5 * 8 * 3, 5 * 8 * 3)
    assert row.reason == NOT_STREAMS
    convs = 2 * (12 * 14 * 3 * 8 * 9 + 6 * 7 * 8 * 8 * 9 + (12 * 14 + 6 * 7) * 8 * 4 * 9)
    assert report.totals["macs_dense"] == convs + row.macs
    assert report.totals["macs_delta_form"] == convs
    assert (report.totals["graphs"], report.totals["eager_modules"]) == (2, 1)
    assert report.totals["macs"] < report.totals["macs_dense"] / 2
    assert "in 2 graphs, 1 modules outside of them" in str(report)
    assert report["backbone.stem.0"].reason is None
    assert report["dense_to_delta.head.levels_1"].operator == "dense_to_delta"


def test_before_the_first_frame():
    dm = deltafx.convert(build())
    assert dm.parts == {}
    assert deltafx.report(dm).totals["macs"] is None
    assert "made when the first frame comes" in str(dm)
    deltafx.reset(dm)


class Flagged(nn.Module):
    """Traceable for one value of its flag."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x, flag=False, *, mask=None):
        if flag:
            x = -x
        return self.conv(x) if mask is None else self.conv(x) * mask


def test_an_argument_that_decides_is_a_constant():
    model = build(Flagged)
    dm = deltafx.convert(model)
    for number, frame in enumerate(frames(6)):
        flag, mask = number % 3 == 1, frame[:, :1, 1:-1, 1:-1] if number % 2 else None
        with torch.no_grad():
            assert_same(dm(frame, flag, mask=mask), model(frame, flag, mask=mask))
        assert list(dm.parts) == [""]


class Sized(nn.Module):
    """Loops and decides by sizes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        while x.shape[-1] > 4:
            x = self.conv(x)[..., ::2]
        return torch.cat(list(x[:, :, 0])) if x.shape[0] == 2 else x


def test_sizes_decide_as_they_do_for_this_frame():
    model = build(Sized)
    dm = deltafx.convert(model)
    assert_follows(model, dm, [*frames(3), *frames(2, width=9)])
    assert list(dm.parts) == [""]


HALF = deltafx.Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)


def raw_frames(count=4, width=14):
    return [torch.randint(256, (2, 12, width, 3), dtype=torch.uint8) for _ in range(count)]


def noted(monkeypatch, name):
    """A list that has an entry for every call of a method of Preprocess."""
    calls, method = [], getattr(deltafx.Preprocess, name)
    monkeypatch.setattr(deltafx.Preprocess, name, lambda *args: calls.append(args) or method(*args))
    return calls


def test_of_8_bit_frames_a_graph_of_the_whole_normalises_what_changed(monkeypatch):
    model, clip = build(Sized), raw_frames()
    wanted = [model(HALF(frame)) for frame in clip]
    dm = deltafx.convert(model, preprocess=HALF, backend="cpu")
    torch.testing.assert_close(dm(clip[0]), wanted[0], rtol=RTOL, atol=RTOL)
    values = noted(monkeypatch, "values")
    for frame, want in zip(clip[1:], wanted[1:], strict=True):
        torch.testing.assert_close(dm(frame.numpy()), want, rtol=RTOL, atol=RTOL)
    assert values == []
    assert list(dm.parts) == [""]
    frame = clip[-1].clone()
    frame[0, 3, 4] += 9
    dm(frame)
    assert dm.parts[""].runtime.plans[0].inputs[0].leaves[0].mask.sum() == 1
    dm.double()
    want = model.double()(HALF.normalised(HALF.frames(frame), torch.float64))
    torch.testing.assert_close(dm(frame), want)


def test_of_8_bit_frames_for_parts_the_levels_are_made_once(monkeypatch):
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Backbone()

        def forward(self, x):
            decide(x)
            return self.backbone(x)

    model, clip = build(Decides), raw_frames()
    wanted = [model(HALF(frame)) for frame in clip]
    levels = noted(monkeypatch, "levels")
    dm = deltafx.convert(model, preprocess=HALF)
    for frame, want in zip(clip, wanted, strict=True):
        torch.testing.assert_close(dm(frame), want, rtol=RTOL, atol=RTOL)
    assert len(levels) == 1
    assert list(dm.parts) == ["backbone"]


def test_hooks_of_a_model_see_normalised_frames():
    model, (frame,) = build(Sized), raw_frames(1)
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    want = model(HALF(frame))
    dm = deltafx.convert(model, preprocess=HALF)
    torch.testing.assert_close(dm(frame), want, rtol=RTOL, atol=RTOL)
    assert len(seen) >= 2
    torch.testing.assert_close(seen[-1], HALF(frame))
    late = deltafx.convert(build(Sized), preprocess=HALF)
    late(frame)
    late.model.register_forward_pre_hook(lambda _, args: seen.append(args[0] + 1))
    torch.testing.assert_close(late(frame), want, rtol=RTOL, atol=RTOL)
    torch.testing.assert_close(seen[-1], HALF(frame) + 1)


def test_hooks_of_a_model_run_in_every_frame():
    model, frames = build(Sized), [HALF(frame) for frame in raw_frames(3)]
    dm, seen = deltafx.convert(model), []
    torch.testing.assert_close(dm(frames[0]), model(frames[0]), rtol=RTOL, atol=RTOL)
    dm.model.register_forward_hook(lambda _, args, result: seen.append(args) or result + 1)
    for frame in frames[1:]:
        torch.testing.assert_close(dm(frame), model(frame) + 1, rtol=RTOL, atol=RTOL)
    assert len(seen) == 2


def test_raw_frames_of_other_sizes_and_other_numbers_of_streams():
    model = build(Sized)
    dm = deltafx.convert(model, preprocess=HALF)
    for width in (14, 9, 14):
        for frame in raw_frames(2, width):
            torch.testing.assert_close(dm(frame), model(HALF(frame)), rtol=RTOL, atol=RTOL)
    with pytest.raises(deltafx.FrameError, match="the frame has 1 streams and the state has 2"):
        dm(raw_frames(1)[0][:1])
    deltafx.reset(dm)
    frame = raw_frames(1)[0][:1]
    torch.testing.assert_close(dm(frame), model(HALF(frame)), rtol=RTOL, atol=RTOL)


class Again(nn.Module):
    """One module, called three times in a frame."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        results = []
        for shift in range(3):
            results.append(self.conv(x.roll(shift, 2)))
            decide(results[-1])
        return results


def test_each_call_has_a_state_of_its_own():
    model = build(Again)
    dm = deltafx.convert(model, threshold=0.0)
    assert_follows(model, dm, frames(4))
    still = list(frames(1)) * 2
    assert_follows(model, dm, still)
    report = deltafx.report(dm)
    assert [row.path for row in report.nodes if row.operator == "conv2d"] == ["conv", "conv@2", "conv@3"]
    assert report.totals["macs"] == 0
    assert report.totals["graphs"] == 3


def test_thresholds_are_measured_for_each_call():
    dm = deltafx.convert(build(Again), mode="balanced")
    for frame in frames(2):
        dm(frame)
    scales, later, _ = dm.scales["conv"]
    assert "conv" in scales
    assert sorted(later) == [1, 2]


class Odd(nn.Module):
    """Things a graph cannot hold, each in a module of its own."""

    def __init__(self):
        super().__init__()
        self.good = nn.Conv2d(3, 3, 1)
        self.opaque, self.random, self.writes, self.mutates = Opaque(), Random(), Writes(), Mutates()

    def forward(self, x):
        x = self.good(x)
        x = self.opaque(Wrapper(x)) + self.writes(x)
        decide(x)
        return self.mutates([x]) + 0 * self.random(x)


class Wrapper:
    def __init__(self, x):
        self.x = x


class Opaque(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, wrapper):
        return self.conv(wrapper.x)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x) + torch.rand(3, 1, 1)


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.conv(x) * self.calls


class Mutates(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, levels):
        levels.append(self.conv(levels[0]))
        return levels[-1]


def test_what_a_graph_cannot_hold_runs_as_it_is():
    model = build(Odd)
    dm = deltafx.convert(model)
    assert_follows(model, dm, frames(3))
    assert sorted(dm.parts) == ["good", "mutates.conv", "opaque.conv", "random.conv", "writes.conv"]
    assert float(dm.model.writes.calls) == 3 == float(model.writes.calls)
    reasons = {path: part.reason for path, part in dm.watched.items()}
    assert reasons["opaque"] == "it is given a Wrapper, which has no place in a graph"
    assert "draws random numbers" in reasons["random"]
    assert "writes into its buffer 'calls'" in reasons["writes"]
    assert "it changes the list or dictionary that it is given" in reasons["mutates"]


class Leaves(nn.Module):
    """Its middle gives as many rows as it finds."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 3, 1), Finds(), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.first(x)
        found = self.middle(x)
        decide(x)
        return self.last(x) + len(found)


class Finds(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return torch.nonzero(self.conv(x) > 0.5)


def test_an_output_whose_form_depends_on_the_picture():
    """Seen only when it happens: then that module runs as it is, and its own parts are looked at."""
    model = build(Leaves)
    dm = deltafx.convert(model)
    assert_follows(model, dm, frames(5))
    assert "middle" not in dm.parts
    assert "middle.conv" in dm.parts
    assert "an output whose form depends on the picture" in dm.watched["middle"].reason


class Mirrored(Detector):
    """Looks at the picture twice, by calling itself."""

    def forward(self, x, mirrored=True):
        found = super().forward(x)
        return [*found, *self(x.flip(-1), mirrored=False)] if mirrored else found


def test_a_model_may_call_itself():
    model = build(Mirrored)
    dm = deltafx.convert(model, backend="reference")
    x = torch.randn(2, 3, 12, 16)
    for _ in range(3):
        x[:, :, 3:5, 4:7] += 1
        for got, want in zip(dm(x), model(x), strict=True):
            torch.testing.assert_close(got, want)
    assert {"backbone", "head"} <= set(dm.parts)
    assert not any("forward" in vars(module) for module in dm.model.modules())


def test_nothing_at_all():
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3, 3))

        def forward(self, x):
            return x * self.gain if x.sum() > 0 else x

    with pytest.raises(deltafx.ConvertError, match=r"cannot be traced by torch.fx: the model's own forward"):
        deltafx.convert(Nothing().eval())


def test_nothing_in_the_first_frame():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return x if x.sum() > -1e9 else self.unused(x)

    dm = deltafx.convert(Skips().eval())
    with pytest.raises(deltafx.ConvertError, match=r"cannot be traced by torch.fx: the model's own forward"):
        dm(next(frames()))


def test_calls_that_are_never_the_same():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Head()
            self.number = 0

        def forward(self, x):
            self.number += 1
            decide(x)
            return self.part([x[:, [0, 1, 2, 0, 1, 2, 0, 1]]], float(self.number))

    model = build(Counts)
    dm = deltafx.convert(model)
    assert_follows(model, dm, frames(MOST_FORMS + 3))
    assert dm.watched["part"].reason == "what it is given beside tensors differs from frame to frame"
    assert len(dm.watched["part"].graphs) == KEPT_FORMS
    assert list(dm.parts) == ["part.conv"]


# ---------------------------------------------------------------------------------------------------------------------
# Frames


def test_a_list_of_pictures_is_streams():
    model = build()
    dm = deltafx.convert(model)
    assert_follows(model, dm, [list(frame) for frame in frames()])
    assert deltafx.report(dm).streams == 2
    with pytest.raises(deltafx.FrameError, match=r"the frame has 3 streams and the state has 2; .*deltafx.reset"):
        dm(list(next(frames(streams=3))))
    deltafx.reset(dm)
    assert_follows(model, dm, [list(frame) for frame in frames(streams=3)])


def test_other_sizes_have_graphs_of_their_own():
    model = build()
    dm = deltafx.convert(model)
    small, large = list(frames(3)), list(frames(3, height=20))
    for pair in zip(small, large, strict=True):
        assert_follows(model, dm, pair)
    assert len(dm.graphs) == 4


def test_reset_of_some_streams():
    model = build()
    dm = deltafx.convert(model, threshold=0.5)
    clip = list(frames(3))
    for frame in clip[:2]:
        dm(frame)
    deltafx.reset(dm, [1])
    dm(clip[1])
    mask = deltafx.converted.input_mask(dm)
    assert bool(mask[1].all())
    assert not bool(mask[0].any())
    with pytest.raises(ValueError, match=r"streams \[2\] do not exist"):
        deltafx.reset(dm, [2])


def test_an_interrupted_frame_is_made_up_for():
    model = build()
    dm = deltafx.convert(model)
    clip = list(frames(4))
    assert_follows(model, dm, clip[:2])
    hook = dm.parts["head"].register_forward_pre_hook(lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        dm(clip[2])
    hook.remove()
    assert all("forward" not in vars(module) for module in dm.model.modules())
    assert_follows(model, dm, clip[3:])


def test_a_first_frame_that_is_interrupted_leaves_the_number_of_streams_open():
    model = build()
    dm = deltafx.convert(model)
    hook = dm.model.boxes.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        dm(next(frames(streams=3)))
    hook.remove()
    assert_follows(model, dm, frames(streams=2))


def stop(*args):
    raise KeyboardInterrupt


def test_eager_code_may_write_into_what_a_graph_returned():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            x = self.one(x)
            x[x > x.mean()] = 0.5
            decide(x)
            return self.two(x)

    model = build(InPlace)
    dm = deltafx.convert(model, options={"copy_outputs": False})
    assert_follows(model, dm, frames(4))


def test_the_gate_is_that_of_the_first_graph():
    dm = deltafx.convert(build(), mode="balanced")
    dm(next(frames()))
    gates = {path: graph.runtime.settings.input_gate for path, graph in dm.parts.items()}
    assert gates["backbone"] is not None
    assert gates["head"] is None


@pytest.mark.parametrize("silent", [False, True])
def test_noise_is_warned_of_once_unless_silenced(silent):
    dm = deltafx.convert(build())
    if silent:
        deltafx.converted.silence(dm)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in range(31):
            dm(torch.rand(2, 3, 12, 14))
    assert ["of the input's pixels changed" in str(each.message) for each in heard] == ([] if silent else [True])


def test_raw_frames():
    model = build()
    preprocess = deltafx.Preprocess(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    dm = deltafx.convert(model, preprocess=preprocess)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        frame = torch.randint(256, (2, 12, 14, 3), dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            assert_same(dm(frame), model(preprocess(frame)))


def test_two_threads_at_once():
    dm = deltafx.convert(build())
    dm(next(frames()))
    with dm.lock, pytest.raises(deltafx.FrameError, match="already running a frame"):
        dm(next(frames()))
    thread = threading.Thread(target=dm, args=(next(frames()),))
    thread.start()
    thread.join()


@pytest.mark.parametrize("args", [(), (3,), ([],)])
def test_no_frame(args):
    with pytest.raises(deltafx.FrameError, match=r"a frame is a torch.Tensor, or several; got none"):
        deltafx.convert(build())(*args)


# ---------------------------------------------------------------------------------------------------------------------
# As a module


def test_the_model_is_not_changed_and_shares_its_weights():
    model = build()
    before = copy.deepcopy(model.state_dict())
    dm = deltafx.convert(model)
    for frame in frames(2):
        dm(frame)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    assert all("forward" not in vars(module) for module in model.modules())
    assert dm.model.head.conv.weight.data_ptr() == model.head.conv.weight.data_ptr()
    weights = [weight for name, weight in dm.parts["head"].named_parameters() if name.endswith("weight")]
    assert {weight.data_ptr() for weight in weights} == {model.head.conv.weight.data_ptr()}


def twin_by_file(dm):
    file = io.BytesIO()
    torch.save(dm, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, twin_by_file])
def test_copies(twin_of):
    model = build()
    dm = deltafx.convert(model, mode="balanced")
    clip = list(frames(4))
    dm(clip[0])
    twin = twin_of(dm)
    torch.testing.assert_close(twin.scales, dm.scales, rtol=0, atol=0)
    assert twin.parts == {}
    for frame in clip[1:]:
        deltafx.reset(dm)
        deltafx.reset(twin)
        assert_same(dm(frame), twin(frame))
    assert twin.parts["head"] is not dm.parts["head"]


def test_other_weights_and_other_dtypes():
    model, other = build(), build()
    for parameter in other.parameters():
        parameter.data.mul_(0.5)
    before = copy.deepcopy(model.state_dict())
    dm = deltafx.convert(model)
    dm(next(frames()))
    dm.load_state_dict({f"model.{name}": value for name, value in other.state_dict().items()})
    assert_follows(other, dm, frames(2))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
    assert_follows(copy.deepcopy(other).double(), dm.double(), [frame.double() for frame in frames(2)])


def test_it_does_not_train_and_is_not_exported():
    dm = deltafx.convert(build())
    with pytest.raises(deltafx.FrameError, match="runs inference only"):
        dm.train()
    with pytest.raises(Exception, match="cannot be exported"):
        torch.export.export(dm, (next(frames()),))


# ---------------------------------------------------------------------------------------------------------------------
# Settings


def test_keep_dense():
    model = build()
    dm = deltafx.convert(model, keep_dense=["head", "boxes.layer"], strict=True)
    assert_follows(model, dm, frames(2))
    assert list(dm.parts) == ["backbone"]
    assert deltafx.report(dm)["head.conv"].reason == "it is named in keep_dense"


def test_strict():
    dm = deltafx.convert(build(), strict=True)
    with pytest.raises(deltafx.ConvertError) as error:
        dm(next(frames()))
    assert "boxes.layer: Linear runs dense, its rows are not the streams but" in str(error.value)
    assert "keep_dense=['boxes.layer']" in str(error.value)


def test_thresholds_by_name():
    dm = deltafx.convert(build(), threshold={"head.conv": 0.3, "backbone.down": 0.1})
    for frame in frames(2):
        dm(frame)
    report = deltafx.report(dm)
    assert report["head.conv"].threshold > 0
    assert report["backbone.stem.0"].threshold is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": {"head.cnov": 0.3}}, "unknown truncation point in threshold 'head.cnov'. Did you mean"),
        ({"keep_dense": ["haed"]}, "unknown module path or operator in keep_dense 'haed'"),
    ],
)
def test_names_of_nothing(arguments, message):
    dm = deltafx.convert(build(), **arguments)
    with pytest.raises(deltafx.ConvertError, match=message):
        dm(next(frames()))


def test_examples_make_the_graphs_at_once(monkeypatch):
    dm = deltafx.convert(build(), next(frames()))
    assert list(dm.parts) == ["backbone", "head"]
    assert not bool(deltafx.report(dm).frames)
    assert_follows(build(), dm, frames(2))


def test_forced_masks():
    dm = deltafx.convert(build())
    clip = list(frames(2))
    mask = torch.zeros(12, 14)
    mask[2:5, 3:6] = 1
    with deltafx.testing.force_masks(dm, mask):
        dm(clip[0])
        dm(clip[1])
        assert torch.equal(deltafx.converted.input_mask(dm)[0].float(), mask)
        assert 0 < deltafx.report(dm)["dense_to_delta.head.levels_1"].update_rate < 0.5
    assert_follows(build(), dm, clip)


def test_compare_and_verify():
    model = build()
    dm = deltafx.convert(model)
    result = deltafx.compare(model, dm, frames(3))
    assert result.total["relative_error"] < 1e-5
    assert result.total["macs_ratio"] > 1
    with pytest.raises(TypeError, match=r"this model is in parts; use deltafx.compare"):
        deltafx.verify(model, dm, frames(2))
