"""The course of frames: when one is in full, what it reads, and what interrupts it."""

import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import deltafx
from deltafx.runtime import KEPT_PLANS, Runtime
from tests.small import PAYLOADS, TROUBLE, Small, WithIsland, dense, frame, input_rate, small, touched, was_full


class Scaled(nn.Module):
    """Several inputs, some with defaults, which may be numbers or tensors."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x, gain=2.0, other=0.0):
        return self.conv(x) * gain + other


@pytest.fixture
def model():
    return small()


@pytest.fixture(params=PAYLOADS)
def payload(request):
    return request.param


# ---------------------------------------------------------------------------------------------------------------------
# Which frames are in full


def test_the_first_frame_is_full(model, payload):
    dm = deltafx.convert(model, payload=payload)
    torch.testing.assert_close(dm(frame()), dense(model, frame()))
    assert was_full(dm)


def test_a_repeated_frame_updates_nothing(model, payload):
    dm = deltafx.convert(model, payload=payload)
    dm(frame())
    torch.testing.assert_close(dm(frame()), dense(model, frame()))
    assert {node.update_rate for node in deltafx.report(dm).nodes} == {0}


def test_reset_makes_the_next_frame_full_and_only_that(model, payload):
    dm = deltafx.convert(model, payload=payload)
    dm(frame())
    deltafx.reset(dm)
    dm(frame())
    assert was_full(dm)
    dm(frame())
    assert input_rate(dm) == 0


def test_reset_of_one_stream_refreshes_it_alone(model, payload):
    dm = deltafx.convert(model, payload=payload)
    dm(frame(streams=4))
    deltafx.reset(dm, streams=[1, 3])
    torch.testing.assert_close(dm(frame(streams=4)), dense(model, frame(streams=4)))
    assert {node.update_rate for node in deltafx.report(dm).nodes} == {0.5}


def test_reset_takes_streams_as_a_tensor(model):
    dm = deltafx.convert(model)
    dm(frame())
    deltafx.reset(dm, streams=torch.tensor([1]))
    dm(frame())
    assert input_rate(dm) == 0.5


def test_reset_of_a_stream_reaches_every_shape(model):
    dm = deltafx.convert(model)
    dm(frame(size=8))
    dm(frame(size=6))
    deltafx.reset(dm, streams=[0])
    for size in (8, 6):
        dm(frame(size=size))
        assert input_rate(dm) == 0.5


def test_reset_before_the_first_frame_does_nothing(model):
    dm = deltafx.convert(model)
    deltafx.reset(dm)
    deltafx.reset(dm, streams=[1])
    torch.testing.assert_close(dm(frame()), dense(model, frame()))


def test_reset_refuses_a_stream_that_does_not_exist(model):
    dm = deltafx.convert(model)
    dm(frame())
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=rf"streams \[{wrong}\] do not exist; there are 2, numbered from 0"):
            deltafx.reset(dm, streams=[0, wrong])
    dm(frame())
    assert input_rate(dm) == 0


def test_every_nth_frame_is_full(model, payload):
    dm = deltafx.convert(model, payload=payload, refresh_every=3)
    rates = []
    for _ in range(7):
        dm(frame())
        rates.append(input_rate(dm))
    assert rates == [1, 0, 0, 1, 0, 0, 1]


def test_shapes_alternate_and_each_keeps_its_state(model, payload):
    dm = deltafx.convert(model, payload=payload)
    dm(frame(size=8))
    dm(frame(size=6))
    assert was_full(dm)
    for size in (8, 6, 8):
        x = touched(frame(size=size))
        torch.testing.assert_close(dm(x), dense(model, x))
        assert input_rate(dm) < 0.1


def test_the_shape_used_longest_ago_is_dropped(model):
    dm = deltafx.convert(model)
    sizes = range(8, 8 + KEPT_PLANS)
    for size in sizes:
        dm(frame(size=size))
    dm(frame(size=8))  # used again: 9 is the oldest now
    dm(frame(size=5))
    dm(frame(size=8))
    assert input_rate(dm) == 0
    dm(frame(size=9))
    assert was_full(dm)
    assert len(dm.runtime.plans) == KEPT_PLANS


@pytest.mark.parametrize("options", [{}, {"profile": True}, {"frame_program": False}], ids=str)
def test_what_is_dropped_is_free_at_once(model, options):
    """Also what was made of it for whole frames: a GPU has no room for both."""
    dm = deltafx.convert(model, options=options)
    for _ in range(4):
        dm(frame())
    plans = [weakref.ref(plan) for plan in dm.runtime.plans]
    gc.disable()
    try:
        for size in range(9, 9 + KEPT_PLANS):
            dm(frame(size=size))
        plans += [weakref.ref(plan) for plan in dm.runtime.plans[1:]]
        dm.double()
        assert [plan() for plan in plans] == [None] * KEPT_PLANS
    finally:
        gc.enable()


def test_another_number_of_streams_needs_a_reset(model, payload):
    dm = deltafx.convert(model, payload=payload)
    dm(frame(streams=2))
    with pytest.raises(deltafx.FrameError, match=r"the frame has 3 streams .* the state has 2; .*deltafx.reset"):
        dm(frame(streams=3))
    deltafx.reset(dm)
    torch.testing.assert_close(dm(frame(streams=3)), dense(model, frame(streams=3)))
    deltafx.reset(dm)
    torch.testing.assert_close(dm(frame(1, streams=2)), dense(model, frame(1, streams=2)))
    assert was_full(dm)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def test_arguments_may_come_by_name_and_have_defaults(payload):
    model = small(Scaled)
    dm = deltafx.convert(model, payload=payload)
    x, other = frame(), frame(1)[:, :2]
    torch.testing.assert_close(dm(x), dense(model, x))
    torch.testing.assert_close(dm(x=x), dense(model, x))
    assert input_rate(dm) == 0  # the same call
    torch.testing.assert_close(dm(x, other=other), dense(model, x, other=other))
    torch.testing.assert_close(dm(other=touched(other), x=x, gain=2.0), dense(model, x, 2.0, touched(other)))
    torch.testing.assert_close(dm(x, 2.0, other), dense(model, x, 2.0, other))


def test_another_number_as_argument_refreshes(payload):
    model = small(Scaled)
    dm = deltafx.convert(model, payload=payload)
    for gain in (2.0, 3.0):
        torch.testing.assert_close(dm(frame(), gain), dense(model, frame(), gain))
        assert was_full(dm)
    dm(frame(), 3.0)
    assert input_rate(dm) == 0


def test_1_and_true_are_different_arguments():
    model = small(Scaled)
    dm = deltafx.convert(model)
    dm(frame(), 1)
    dm(frame(), True)
    assert was_full(dm)


class Sum(nn.Module):
    def forward(self, pair, gain=1.0):
        return pair[0] * gain + pair[1]


@pytest.fixture
def looked_closer(monkeypatch):
    """Of each frame: whether its plan was not seen at a glance."""
    found = []
    plan_at_hand = Runtime.plan_at_hand

    def note(*args):
        plan = plan_at_hand(*args)
        found.append(plan is None)
        return plan

    monkeypatch.setattr(Runtime, "plan_at_hand", note)
    return found


def test_a_frame_like_one_before_finds_its_plan_at_a_glance(looked_closer, payload):
    model = small(Scaled)
    dm = deltafx.convert(model, payload=payload)
    x, other = frame(), frame(1)[:, :2]
    calls = [((x,), {}), ((x, 2.0, other), {}), ((), {"x": x}), ((x,), {"other": other, "gain": 2.0}), ((x,), {})]
    for number, (args, kwargs) in enumerate(calls):
        args = [touched(each, amount=number) if each is x else each for each in args]
        torch.testing.assert_close(dm(*args, **kwargs), dense(model, *args, **kwargs))
    assert looked_closer == [True, True, False, False, False]


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x[:, :, :4],
        lambda x: nn.Parameter(x),
        lambda x: x.as_subclass(Picture),
    ],
    ids=["another size", "a parameter", "a subclass"],
)
def test_a_frame_of_another_kind_is_looked_at_closer(other, model, looked_closer):
    dm = deltafx.convert(model)
    for _ in range(2):
        dm(frame())
        torch.testing.assert_close(dm(other(frame())), dense(model, other(frame())))
    assert looked_closer[:3] == [True, True, False]
    assert looked_closer[3] == (type(other(frame())) is not torch.Tensor)


class Picture(torch.Tensor):
    pass


def test_nested_arguments_are_looked_at_closer_in_every_frame(looked_closer):
    model = Sum().eval()
    dm = deltafx.convert(model)
    for number in range(3):
        pair = (touched(frame(), amount=number), frame(1))
        torch.testing.assert_close(dm(pair), dense(model, pair))
    assert looked_closer == [True] * 3
    assert deltafx.report(dm).frames == 3


def test_a_number_that_is_not_itself_is_another_argument_every_time(looked_closer):
    dm = deltafx.convert(small(Scaled))
    for _ in range(3):
        dm(frame(), float("nan"))
        assert was_full(dm)
    assert looked_closer == [True] * 3


def test_the_number_of_streams_is_also_kept_where_a_plan_is_at_hand(model, looked_closer):
    dm = deltafx.convert(model)
    dm(frame())
    deltafx.reset(dm)
    dm(frame(streams=3))
    with pytest.raises(deltafx.FrameError, match=r"the frame has 2 streams .* and the state has 3"):
        dm(frame())
    torch.testing.assert_close(dm(frame(1, streams=3)), dense(model, frame(1, streams=3)))
    deltafx.reset(dm)
    torch.testing.assert_close(dm(frame(1)), dense(model, frame(1)))
    assert looked_closer == [True, True, True, False, False]


class Switched(nn.Module):
    def forward(self, x, config):
        return x * config["gains"][0]


def test_an_argument_that_the_caller_changes_in_place_refreshes():
    model = Switched().eval()
    dm = deltafx.convert(model)
    config = {"gains": [2.0]}
    dm(frame(), config)
    config["gains"][0] = 5.0
    torch.testing.assert_close(dm(frame(), config), frame() * 5)


def test_a_tensor_that_all_streams_share_refreshes_when_it_changes(payload):
    model = small(Scaled)
    dm = deltafx.convert(model, payload=payload)
    gain = torch.tensor([[[2.0]], [[3.0]]])  # [C, 1, 1]
    dm(frame(streams=3), gain)
    dm(touched(frame(streams=3)), gain)
    assert input_rate(dm) < 0.1
    gain[1] = 4  # in place
    torch.testing.assert_close(dm(frame(streams=3), gain), dense(model, frame(streams=3), gain))
    assert was_full(dm)
    dm(frame(streams=3), gain)
    assert input_rate(dm) == 0


def test_a_shared_tensor_may_come_first_and_have_two_dimensions():
    class Mixed(nn.Module):
        def forward(self, matrix, x):
            return x * matrix.sum()

    dm = deltafx.convert(Mixed().eval())
    matrix, x = torch.eye(3), frame(streams=2)
    dm(matrix, x)
    torch.testing.assert_close(dm(matrix, touched(x)), touched(x) * 3)
    assert deltafx.report(dm).streams == 2
    assert deltafx.report(dm)["dense_to_delta.x"].update_rate < 0.1


def test_a_frame_that_the_caller_overwrites_is_compared_with_what_it_was(model, payload):
    dm = deltafx.convert(model, payload=payload)
    x = frame()
    dm(x)
    x[0, :, 2, 3] += 1
    torch.testing.assert_close(dm(x), dense(model, x))
    assert input_rate(dm) == 1 / x[:, 0].numel()


def test_strides_of_the_frame_do_not_matter(model):
    dm = deltafx.convert(model)
    dm(frame())
    dm(frame().to(memory_format=torch.channels_last))
    dm(frame().transpose(2, 3).contiguous().transpose(2, 3))
    assert input_rate(dm) == 0


def test_frames_alternate_inside_and_outside_of_inference_mode(model, payload):
    dm = deltafx.convert(model, payload=payload)
    x = frame()
    for index, mode in enumerate((torch.inference_mode, torch.enable_grad, torch.no_grad, torch.inference_mode)):
        x = touched(x, amount=index + 1.0)
        with mode():
            got = dm(x)
        torch.testing.assert_close(got, dense(model, x))
        assert not got.requires_grad
        assert not got.is_inference()
        got.add_(1)  # an inference tensor may not be changed here


def test_a_frame_may_be_an_inference_tensor(model, payload):
    dm = deltafx.convert(model, payload=payload)
    with torch.inference_mode():
        first, second = frame(), touched(frame())
    dm(first)
    torch.testing.assert_close(dm(second), dense(model, touched(frame())))
    dm(frame())
    assert input_rate(dm) == 1 / first[:, 0].numel()


def test_a_frame_that_requires_grad_gives_a_result_without(model):
    dm = deltafx.convert(model)
    assert not dm(frame().requires_grad_()).requires_grad


def test_a_model_without_weights_takes_any_floating_dtype():
    dm = deltafx.convert(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)).eval())
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for x in (frame().to(dtype), touched(frame()).to(dtype)):
            assert torch.equal(dm(x), F.max_pool2d(x.relu(), 2))


class Labels(nn.Module):
    """Integers and booleans in and out."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image, valid):
        scores = self.conv(image.float() / 255)
        return (scores > 0) & valid, scores.argmax(1), torch.where(valid, scores, -1.0)


def test_integer_and_boolean_tensors_go_in_and_come_out(payload):
    model = small(Labels)
    dm = deltafx.convert(model, payload=payload)
    image = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    valid = image[:, :1] > 50
    for _ in range(3):
        image, valid = image.clone(), valid.clone()
        image[1, :, 4, 4] += 9
        valid[0, :, 1, 2] ^= True
        for got, want in zip(dm(image, valid), dense(model, image, valid), strict=True):
            torch.testing.assert_close(got, want)


# ---------------------------------------------------------------------------------------------------------------------
# Interrupted frames, and two at once


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), StopIteration()])
def test_an_interrupted_frame_is_followed_by_a_full_one(payload, error):
    model = small(WithIsland)
    dm = deltafx.convert(model, payload=payload)
    dm(frame())
    TROUBLE.append(error)
    with pytest.raises((type(error), RuntimeError)):
        dm(frame(1))
    torch.testing.assert_close(dm(frame()), dense(model, frame()))
    assert was_full(dm)
    torch.testing.assert_close(dm(touched(frame())), dense(model, touched(frame())))
    assert input_rate(dm) < 0.1


def test_an_interrupted_first_frame_leaves_nothing_behind(payload):
    model = small(WithIsland)
    dm = deltafx.convert(model, payload=payload)
    TROUBLE.append(RuntimeError("no"))
    with pytest.raises(RuntimeError, match="no"):
        dm(frame(streams=3))
    torch.testing.assert_close(dm(frame()), dense(model, frame()))


def test_a_first_frame_that_is_interrupted_late_leaves_the_number_of_streams_open(model):
    dm = deltafx.convert(model)
    hook = dm.get_submodule("head").register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        dm(frame(streams=3))
    hook.remove()
    torch.testing.assert_close(dm(frame()), dense(model, frame()))


def stop(*args):
    raise KeyboardInterrupt


def test_the_report_stays_sane_after_interrupted_frames():
    dm = deltafx.convert(small(WithIsland))
    dm(frame())
    for _ in range(3):
        TROUBLE.append(RuntimeError("no"))
        with pytest.raises(RuntimeError):
            dm(frame(1))
        str(deltafx.report(dm))
    dm(frame())
    report = deltafx.report(dm)
    assert report.frames == 2
    for node in report.nodes:
        assert 0 <= node.update_rate_mean <= 1
        assert node.macs_mean <= node.macs_dense


def test_thresholds_are_measured_on_the_first_frame_that_was_not_interrupted():
    model = small(WithIsland)
    dm, calm = (deltafx.convert(model, threshold=0.1) for _ in range(2))
    TROUBLE.append(RuntimeError("no"))
    with pytest.raises(RuntimeError):
        dm(1000 * frame())
    assert torch.equal(dm(frame()), calm(frame()))
    assert dm.runtime.scales == calm.runtime.scales


@fx.wrap
def call_back(x):
    for callback in CALLBACKS:
        callback()
    return x + 1


CALLBACKS = []


class CallsBack(nn.Module):
    def forward(self, x):
        return call_back(x)


@pytest.fixture
def meanwhile():
    CALLBACKS.clear()
    yield CALLBACKS
    CALLBACKS.clear()


def test_two_frames_at_once_are_refused(meanwhile):
    dm = deltafx.convert(CallsBack().eval())
    dm(frame())
    inside, done = threading.Event(), threading.Event()
    meanwhile += [inside.set, lambda: done.wait(10)]
    results = []
    thread = threading.Thread(target=lambda: results.append(dm(frame(1))))
    thread.start()
    inside.wait(10)
    meanwhile.clear()
    with pytest.raises(deltafx.FrameError, match="already running a frame, in another thread or further up the stack"):
        dm(frame(2))
    with pytest.raises(deltafx.FrameError, match="already running"):
        deltafx.reset(dm)
    done.set()
    thread.join()
    assert torch.equal(results[0], frame(1) + 1)
    assert torch.equal(dm(frame(2)), frame(2) + 1)


def test_a_frame_within_a_frame_is_refused(meanwhile):
    dm = deltafx.convert(CallsBack().eval())
    dm(frame())
    meanwhile.append(lambda: dm(frame()))
    with pytest.raises(deltafx.FrameError, match="already running"):
        dm(frame(1))
    meanwhile.clear()
    assert torch.equal(dm(frame(2)), frame(2) + 1)


def test_two_converted_models_do_not_meet(payload):
    model = small()
    one, two = (deltafx.convert(model, payload=payload, threshold=t) for t in (None, 0.1))
    for seed in range(3):
        torch.testing.assert_close(one(frame(seed)), dense(model, frame(seed)))
        two(frame(seed + 10))
    assert one.runtime.scales == {}


def test_each_thread_may_have_a_copy(model):
    import copy

    dm = deltafx.convert(model)
    results = {}

    def run(seed, own):
        for _ in range(3):
            results[seed] = own(frame(seed))

    threads = [threading.Thread(target=run, args=(seed, copy.deepcopy(dm))) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, got in results.items():
        torch.testing.assert_close(got, dense(model, frame(seed)))


# ---------------------------------------------------------------------------------------------------------------------
# Non-finite frames


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_frame_is_gone_after_the_next_good_one(model, payload, bad):
    dm = deltafx.convert(model, payload=payload)
    dm(frame())
    broken = frame()
    broken[1, 0, 3, 3] = bad
    torch.testing.assert_close(dm(broken), dense(model, broken), equal_nan=True)
    torch.testing.assert_close(dm(broken), dense(model, broken), equal_nan=True)
    torch.testing.assert_close(dm(frame()), dense(model, frame()))
    torch.testing.assert_close(dm(touched(frame())), dense(model, touched(frame())))
    assert input_rate(dm) < 0.1


def test_value_payload_recovers_without_a_refresh(model):
    dm = deltafx.convert(model)
    dm(frame())
    broken = frame()
    broken[1, 0, 3, 3] = float("nan")
    dm(broken)
    dm(frame())
    assert input_rate(dm) == 1 / frame()[:, 0].numel()


def test_difference_payload_refreshes_only_the_stream_that_met_it(model):
    dm = deltafx.convert(model, payload="difference")
    dm(frame())
    broken = frame()
    broken[1, 0, 3, 3] = float("nan")
    dm(broken)
    dm(frame())
    assert {node.update_rate for node in deltafx.report(dm).nodes} == {0.5}
    dm(frame())
    assert input_rate(dm) == 0


def test_a_first_frame_that_is_not_finite_recovers(model, payload):
    dm = deltafx.convert(model, payload=payload)
    dm(torch.full_like(frame(), float("nan")))
    torch.testing.assert_close(dm(frame()), dense(model, frame()))


def test_an_overflow_inside_recovers(payload):
    model = small().half()
    model.first.weight.data *= 10
    dm = deltafx.convert(model, payload=payload)
    dm(frame().half())
    loud = 60000 * frame().sign().half()
    assert not dense(model, loud).isfinite().flatten(1).all(1).any()  # in neither stream
    dm(loud)
    torch.testing.assert_close(dm(frame().half()), dense(model, frame().half()))


# ---------------------------------------------------------------------------------------------------------------------
# Outside of frames


def test_an_interpreter_runs_densely_and_touches_no_state(model, payload):
    dm = deltafx.convert(model, payload=payload)
    torch.testing.assert_close(fx.Interpreter(dm).run(frame()), dense(model, frame()))
    assert deltafx.report(dm).frames == 0
    dm(frame())
    torch.testing.assert_close(fx.Interpreter(dm).run(frame(1)), dense(model, frame(1)))
    dm(touched(frame()))
    assert input_rate(dm) == 1 / frame()[:, 0].numel()
    assert deltafx.report(dm).frames == 2


def test_a_node_may_be_called_by_itself(model):
    dm = deltafx.convert(model)
    dm(frame())
    first = dm.get_submodule("first")
    torch.testing.assert_close(first(frame(1)), dense(model.first, frame(1)).relu())


def test_all_that_changes_hangs_off_one_submodule(model):
    dm = deltafx.convert(model, threshold=0.1)

    def outside(module):
        return {name: dict(vars(part)) for name, part in module.named_modules() if part is not dm.runtime}

    before = outside(dm)
    dm(frame())
    assert outside(dm) == before
    assert [name for name, part in dm.named_modules() if part is dm.runtime] == ["_deltafx"]


def test_forward_is_a_frame_like_the_call(model):
    dm = deltafx.convert(model)
    dm.forward(frame())
    dm(frame())
    assert input_rate(dm) == 0


def test_the_model_is_not_changed(payload):
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dm = deltafx.convert(model, payload=payload, threshold=0.1)
    dm(frame())
    dm(touched(frame()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert isinstance(model, Small)
