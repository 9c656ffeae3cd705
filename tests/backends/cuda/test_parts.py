"""Frames in which nothing changed, few pixels did, or most: the device takes the form, and none is less exact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deltafx
from deltafx.backends import unavailable
from deltafx.measure import relative_error, tensors_of
from deltafx.state import COMPUTED, FRAMES, UPDATED
from tests.backends.agreement import assert_agree, assert_as_exact, in_dtype
from tests.backends.network import network
from tests.ops.test_operators import SAMPLES, as_model, clip, run

if unavailable("cuda"):
    pytest.skip(f"CUDA backend: {unavailable('cuda')}", allow_module_level=True)

from deltafx.backends.cuda import parts
from deltafx.backends.cuda.dense import FEW_PIXELS
from deltafx.backends.cuda.dense_convolution import DenseConvolution
from deltafx.backends.cuda.dense_operators import DenseOperator, DenseReduction
from deltafx.backends.cuda.parts import DENSE, REST, SPARSE
from tests.backends.cuda.quiet import without_waiting_or_allocating
from tests.backends.cuda.test_backend import CONVOLUTIONS, DTYPES, on_device
from tests.backends.cuda.test_samples import TF32

if not parts._cuda.has_choices():
    pytest.skip("graphs choose from CUDA 12.8 on", allow_module_level=True)

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore:Using padding='same'")]
NOTHING, FEW, MANY = range(3)
# Of what changes between two frames; the first two are not captured.
COURSE = (MANY, FEW, FEW, NOTHING, NOTHING, MANY, MANY, FEW, NOTHING, MANY, NOTHING, FEW, FEW, MANY, FEW)
FORM = {NOTHING: REST, FEW: SPARSE, MANY: DENSE}


@pytest.fixture(autouse=True)
def _exact_float32(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.fixture(params=[1, 3], ids=["one part", "three parts"])
def count(request: Any, monkeypatch: Any) -> int:
    """Parts of a frame; half of what one reads is many."""
    choose(monkeypatch, 0.5, request.param)
    return request.param


def choose(monkeypatch: Any, share: float, count: int = 1) -> None:
    def split(calls: Any, plan: Any) -> list[Any]:
        each = -(-len(calls) // count)
        return [calls[at : at + each] for at in range(0, len(calls), each)]

    monkeypatch.setattr(parts, "split", split)
    monkeypatch.setattr(parts, "updated_share", lambda calls, plan: share)


def course(dtype: torch.dtype = torch.float32, course: Any = COURSE) -> list[Tensor]:
    torch.manual_seed(0)
    x, frames = torch.randn(2, 3, 44, 60), []
    for change in course:
        if change == MANY:
            x = torch.randn(2, 3, 44, 60)
        if change == FEW:
            x[1, :, 12:16, 20:26] = torch.randn(3, 4, 6)
        frames.append(x.to("cuda", dtype, copy=True))
    return frames


def plan_of(dm: Any) -> Any:
    return dm.runtime.plans[0]


def choices(dm: Any) -> list[int]:
    return plan_of(dm).frame_graph.graph.choices


def dense_forms(dm: Any) -> list[Any]:
    """Of every node that computes something; None for one that has none."""
    return [state.kernel.dense for state in plan_of(dm).nodes.values() if hasattr(state.kernel, "dense")]


def inner_leaves(dm: Any) -> list[Any]:
    plan = plan_of(dm)
    return [leaf for module, _ in plan.frame_graph.inner for leaf in plan.nodes[module.path].leaves]


@pytest.mark.parametrize("dtype", DTYPES)
def test_alternating_forms_are_as_exact_as_the_dense_network(dtype: torch.dtype, count: int) -> None:
    model = on_device(network(), dtype)
    exact = copy.deepcopy(model).double()
    dm = deltafx.convert(model, backend="cuda")
    for number, (change, picture) in enumerate(zip(COURSE, course(dtype), strict=True)):
        if number == 7:
            deltafx.reset(dm, streams=[0])  # half of the pixels
        got, want, dense = (tensors_of(each) for each in (dm(picture), exact(picture.double()), model(picture)))
        assert relative_error(got, want) <= 3 * relative_error(dense, want) + 1e-6, f"frame {number}"
        if number >= 2:
            first, *others = choices(dm)
            assert first == (DENSE if number == 7 else FORM[change]), f"frame {number}"
            assert first == SPARSE or all(other == first for other in others)
    assert len(choices(dm)) == count


def test_what_is_left_is_that_of_a_frame_in_which_all_or_nothing_was_computed(count: int) -> None:
    dm = deltafx.convert(on_device(network()), backend="cuda")
    held: list[Tensor] = []
    for number, (change, picture) in enumerate(zip(COURSE, course(), strict=True)):
        dm(picture)
        if number < 2:
            continue
        for leaf in inner_leaves(dm):
            tally = leaf.tally.tolist()
            assert tally[FRAMES] == number + 1
            assert leaf.mask.sum().item() == tally[UPDATED]
            if change == MANY:
                assert tally[COMPUTED] == tally[UPDATED] == leaf.pixels
            if change == NOTHING:
                assert tally[COMPUTED] == tally[UPDATED] == 0
        values = [leaf.value.clone() for leaf in inner_leaves(dm)]
        assert change != NOTHING or all(torch.equal(a, b) for a, b in zip(values, held, strict=True))
        held = values
    sums = [leaf.tally.tolist()[UPDATED + 2] for leaf in inner_leaves(dm)]
    assert all(leaf.pixels * COURSE.count(MANY) <= total for leaf, total in zip(inner_leaves(dm), sums, strict=True))


SETTINGS: list[dict[str, Any]] = [
    {"threshold": 0.3},
    {"threshold": 0.3, "norm": "max"},
    {"threshold": 0.1, "refresh_every": 5},
    {"input_gate": deltafx.InputGate(9, window=3, dilation=2, grey_level=0.02), "threshold": 0.1},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_dense_frame_withholds_nothing_but_what_the_gate_did(settings: dict[str, Any], count: int) -> None:
    """Which is the network's result for what was propagated of the frame."""
    model = on_device(network())
    dm = deltafx.convert(model, backend="cuda", **settings)
    for number, (change, picture) in enumerate(zip(COURSE, course(), strict=True)):
        got = dm(picture)
        if number >= 2 and change == MANY:
            assert set(choices(dm)) == {DENSE}
            seen = plan_of(dm).inputs[0].leaves[0].value
            assert relative_error(list(got), list(model(seen))) < 1e-5, f"frame {number}"
            assert all(leaf.mask.all() for leaf in inner_leaves(dm))


def test_what_is_withheld_early_lets_the_later_parts_rest(monkeypatch: Any) -> None:
    choose(monkeypatch, 0.9, 4)
    dm = deltafx.convert(on_device(network()), backend="cuda", threshold=deltafx.absolute(1e6))
    for picture in course(course=(MANY, FEW, FEW, FEW)):
        dm(picture)
    assert choices(dm) == [SPARSE, REST, REST, REST]


def test_a_background_refresh_goes_on_while_nothing_changes(count: int) -> None:
    model = on_device(network())
    dm = deltafx.convert(model, backend="cuda", threshold=deltafx.absolute(0.5), refresh_within=10)
    frames = course(course=(MANY, FEW, FEW, *[NOTHING] * 22))
    seen = []
    for number, picture in enumerate(frames):
        got = dm(picture)
        if number >= 4:
            seen.append(choices(dm)[0])
    assert any(form != REST for form in seen)
    assert relative_error(list(got), list(model(picture))) < 1e-5


def test_without_the_switch_there_are_no_dense_frames(count: int) -> None:
    model = on_device(network())
    dm = deltafx.convert(model, backend="cuda", options={"dense_switch": False})
    for number, (change, picture) in enumerate(zip(COURSE, course(), strict=True)):
        dm(picture)
        assert number < 2 or choices(dm)[0] == (REST if change == NOTHING else SPARSE)
    fresh = deltafx.convert(model, backend="cuda")
    assert relative_error(list(dm(picture)), list(fresh(picture))) == 0


def test_the_same_frames_give_the_same_choices_and_bits(count: int) -> None:
    model, courses = on_device(network(), torch.float16), []
    for _ in range(2):
        dm = deltafx.convert(model, backend="cuda", threshold=0.1)
        courses.append([])
        for number, picture in enumerate(course(torch.float16)):
            got = tensors_of(dm(picture))
            courses[-1].append((got, choices(dm) if number >= 2 else None))
    for (a, first), (b, second) in zip(*courses, strict=True):
        assert first == second
        assert relative_error(a, b) == 0


def test_no_form_waits_for_the_device_or_allocates(count: int) -> None:
    dm = deltafx.convert(on_device(network(), torch.float16), backend="cuda", options={"copy_outputs": False})
    frames = course(torch.float16)
    for picture in frames[:4]:
        dm(picture)
    with without_waiting_or_allocating():
        for picture in frames[4:]:
            dm(picture)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bad_frame_is_gone_after_the_next_good_one(dtype: torch.dtype, count: int) -> None:
    """Also from the zeros that fill up odd channels, which cuDNN reads."""
    layers = [nn.Conv2d(3, 13, 3, padding=1), nn.ReLU(), nn.Conv2d(13, 16, 3), nn.ReLU(), nn.Conv2d(16, 5, 3)]
    model = on_device(nn.Sequential(*layers).eval(), dtype)
    dm = deltafx.convert(model, backend="cuda")
    *frames, bad, last = course(dtype, course=(MANY, MANY, MANY, MANY, MANY))
    bad[0, 0, 10, 10] = float("nan")
    for picture in frames:
        dm(picture)
    assert torch.equal(dm(bad).isnan(), model(bad).isnan())
    assert relative_error([dm(last)], [model(last)]) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_dense_convolutions_of_every_shape(name: str, dtype: torch.dtype, monkeypatch: Any) -> None:
    choose(monkeypatch, 0.0)
    torch.manual_seed(0)
    channels, out, height, width, streams, options = CONVOLUTIONS[name]
    model = nn.Sequential(nn.Conv2d(channels, out, **options), nn.ReLU()).eval().to("cuda", dtype)
    dm = deltafx.convert(model, backend="cuda")
    size = (streams, channels, height, width)
    assert_as_exact(dm, model, (torch.randn(size, device="cuda").to(dtype) for _ in range(4)))
    assert choices(dm) == [DENSE]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "relu6": F.relu6, "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "gelu": F.gelu,
    "gelu, tanh": partial(F.gelu, approximate="tanh"), "leaky_relu": partial(F.leaky_relu, negative_slope=0.1),
    "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "mish": F.mish,  # the last of which cuDNN has not
}  # fmt: skip


class Endings(nn.Module):
    """Convolutions that end in every way that cuDNN is asked for, and in others."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.activation = activation
        self.convolutions = nn.ModuleList(
            nn.Conv2d(3 if k == 0 else 16, 16, 3, padding=1, bias=k != 2) for k in range(7)
        )

    def forward(self, x: Tensor) -> Tensor:
        one, two, three, four, five, six, seven = self.convolutions
        x = one(x)
        y = self.activation(two(x))
        z = self.activation(three(y) + x)
        z = self.activation(four(z) + y)
        z = five(z) + x
        return self.activation(six(z)) + seven(z).sigmoid()


@pytest.mark.parametrize("variant", [*DTYPES, "tf32"], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dense_convolutions_with_every_ending(name: str, variant: Any, monkeypatch: Any) -> None:
    choose(monkeypatch, 0.0)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", variant == "tf32")
    dtype = torch.float32 if variant == "tf32" else variant
    model = on_device(Endings(ACTIVATIONS[name]).eval(), dtype)
    dm = deltafx.convert(model, backend="cuda")
    frames = course(dtype, (MANY,) * 5)
    frames[-1][0, 0, 10, 10] = float("nan")
    # PyTorch may not round where there are few channels.
    assert_as_exact(dm, model, frames, least=TF32 if variant == "tf32" else 1e-6)
    assert choices(dm) == [DENSE]


def test_what_cudnn_ends_is_one_kernel(monkeypatch: Any) -> None:
    choose(monkeypatch, 0.0)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    model = on_device(nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.SiLU()).eval(), torch.float16)
    dm = deltafx.convert(model, backend="cuda")
    x = torch.randn(1, 16, 40, 60, device="cuda").half()
    for _ in range(4):
        got = dm(x := x + 1)
    assert relative_error([got], [model(x)]) < 1e-2
    (form,) = dense_forms(dm)
    if parts._cuda.has_cudnn:
        assert form.launches == 1
        ways = form.fused.engine.ways[:2]
        assert all(way.make() for way in [*ways, *ways])  # again, too


class Concatenation(nn.Module):
    """Whose parts are computed in place, each by one convolution, and are read before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 40, 3, padding=1)
        self.third, self.fourth = nn.Conv2d(40, 16, 1), nn.Conv2d(80, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.first(x))
        b = F.leaky_relu(self.second(a), 0.1)
        return self.fourth(torch.cat([a, b, F.relu(self.third(b))], 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_of_a_concatenation_are_computed_in_place(dtype: torch.dtype, monkeypatch: Any) -> None:
    choose(monkeypatch, 0.0)
    torch.manual_seed(0)
    model = on_device(Concatenation().eval(), dtype)
    dm = deltafx.convert(model, backend="cuda")
    assert_as_exact(dm, model, (torch.randn(2, 16, 18, 25, device="cuda").to(dtype) for _ in range(4)))
    assert choices(dm) == [DENSE]
    convolutions = [form for form in dense_forms(dm) if isinstance(form, DenseConvolution)]
    assert len(convolutions) == 4
    if parts._cuda.has_cudnn and dtype != torch.float32:
        assert [form.launches for form in convolutions] == [1] * 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_numbers_of_channels_are_filled_up(dtype: torch.dtype, monkeypatch: Any) -> None:
    choose(monkeypatch, 0.0)
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 21, 3, padding=1), nn.Sigmoid(), nn.Conv2d(21, 13, 3), nn.ReLU()]
    model = on_device(nn.Sequential(*layers, nn.ConvTranspose2d(13, 5, 2)).eval(), dtype)
    dm = deltafx.convert(model, backend="cuda")
    assert_as_exact(dm, model, (torch.randn(2, 16, 18, 25, device="cuda").to(dtype) for _ in range(4)))
    assert choices(dm) == [DENSE]
    forms = dense_forms(dm)
    # What the first two buffers are filled up with is read by the next convolution.
    assert [form.value.shape[1] for form in forms[:2]] == [21, 13]
    if parts._cuda.has_cudnn and dtype != torch.float32:
        assert forms[2].value.shape[1] == 8
        assert forms[2].launches == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bad_frame_leaves_nothing_where_channels_are_filled_up(dtype: torch.dtype, monkeypatch: Any) -> None:
    choose(monkeypatch, 0.5)
    torch.manual_seed(0)
    model = on_device(nn.Sequential(nn.Conv2d(3, 21, 3), nn.ReLU(), nn.Conv2d(21, 13, 3), nn.Sigmoid()).eval(), dtype)
    dm = deltafx.convert(model, backend="cuda")
    frames = course(dtype, (MANY, FEW, FEW, MANY, FEW, FEW))
    frames[3][1, 0, 5:30, 5:30] = float("nan")
    assert_as_exact(dm, model, frames)


class Gated(nn.Module):
    """Squeeze and excite, a maximum, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze, self.excite = nn.Conv2d(3, 20, 3), nn.Conv2d(20, 5, 1), nn.Conv2d(5, 20, 1)
        self.classify = nn.Linear(40, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = x * gate
        return self.classify(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("streams", [1, 5, 16, 17])
def test_products_for_few_pixels_are_one_kernel(streams: int, dtype: torch.dtype, monkeypatch: Any) -> None:
    choose(monkeypatch, 0.0)
    torch.manual_seed(0)
    model = on_device(Gated().eval(), dtype)
    dm = deltafx.convert(model, backend="cuda")
    assert_as_exact(dm, model, (torch.randn(streams, 3, 18, 25, device="cuda").to(dtype) for _ in range(6)))
    assert choices(dm) == [DENSE]
    products = [form for form in dense_forms(dm) if isinstance(form, DenseOperator)]
    assert [form.launches for form in products] == [1] * len(products)
    assert len(products) == (7 if streams <= FEW_PIXELS else 4)


class Excited(nn.Module):
    """Means of what depthwise convolutions compute, and a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3, stride=2), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.third = nn.Conv2d(24, 24, 5, groups=24)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.second(F.relu(self.first(x))))
        x = x * torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = F.relu(self.third(x))
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_depthwise_convolutions_add_up_their_rows(dtype: torch.dtype, count: int) -> None:
    torch.manual_seed(0)
    model = on_device(Excited().eval(), dtype)
    dm = deltafx.convert(model, backend="cuda")
    assert_as_exact(dm, model, course(dtype))
    reductions = [form for form in dense_forms(dm) if isinstance(form, DenseReduction)]
    if count == 1:
        assert [form.arrived is None for form in reductions] == [True, True, False]


TRANSPOSED: dict[str, tuple[int, int, dict[str, Any]]] = {  # channels in and out
    "2x2": (64, 32, {"kernel_size": 2, "stride": 2}),
    "4x4": (32, 48, {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False}),
    "3x3, output padding": (24, 16, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}),
    "3x3, dilated": (16, 16, {"kernel_size": 3, "padding": 2, "dilation": 2}),
    "odd channels": (33, 20, {"kernel_size": 4, "stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_dense_transposed_convolutions(name: str, dtype: torch.dtype, monkeypatch: Any) -> None:
    choose(monkeypatch, 0.0)
    torch.manual_seed(0)
    channels, out, how = TRANSPOSED[name]
    model = nn.Sequential(nn.ConvTranspose2d(channels, out, **how), nn.ReLU()).eval().to("cuda", dtype)
    dm = deltafx.convert(model, backend="cuda")
    assert_as_exact(dm, model, (torch.randn(2, channels, 18, 25, device="cuda").to(dtype) for _ in range(4)))
    assert choices(dm) == [DENSE]
    (form,) = dense_forms(dm)
    if dtype == torch.float32:
        assert form is None  # its sparse kernel computes every pixel
    elif parts._cuda.has_cudnn and "odd" not in name:
        assert form.fused is not None  # in place


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SAMPLES)
def test_dense_forms_agree_with_the_reference(name: str, dtype: torch.dtype, monkeypatch: Any) -> None:
    choose(monkeypatch, 0.0)
    model, frames = in_dtype(as_model(SAMPLES[name]), clip(SAMPLES[name]), dtype)
    model, frames = copy.deepcopy(model).to("cuda"), [tuple(x.to("cuda") for x in frame) for frame in frames]
    try:
        run(model, frames[0])
        reference = deltafx.convert(model, backend="reference")
        run(reference, frames[0])
    except (RuntimeError, TypeError, deltafx.FrameError) as error:  # a constant in the function stays float32, or here
        pytest.skip(f"in {dtype}: {error}")
    dm = deltafx.convert(model, backend="cuda")
    run(dm, frames[0])
    if not plan_of(dm).captures:
        pytest.skip("it has no compiled kernel")
    for number, frame in enumerate(frames):
        for a, b in zip(run(dm, frame), run(reference, frame), strict=True):
            assert_agree(a, b, f"frame {number}")
