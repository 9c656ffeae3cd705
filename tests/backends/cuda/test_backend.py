"""The CUDA backend as a user meets it: the reference's decisions, determinism, and no waiting for the device."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deltafx
from benchmarks.host_cases import Calls
from deltafx.backends import unavailable
from deltafx.measure import relative_error, tensors_of
from deltafx.runtime import NOISE_FRAMES
from deltafx.testing import blobs, clip, force_masks
from tests.backends.cuda.quiet import without_waiting, without_waiting_or_allocating
from tests.backends.network import SETTINGS, assert_decides_alike, network, pictures, states

if unavailable("cuda"):
    pytest.skip(f"CUDA backend: {unavailable('cuda')}", allow_module_level=True)

pytestmark = pytest.mark.cuda
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SPARSE = {"dense_switch": False}  # in every frame; tests/backends/cuda/test_parts.py has the others


@pytest.fixture(autouse=True)
def _exact_float32(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def on_device(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    return copy.deepcopy(model).to("cuda", dtype)


def frames(count: int = 12, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [picture.to("cuda", dtype) for picture in pictures(count)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_decides_as_the_reference_does(settings: dict[str, Any]) -> None:
    model = on_device(network())
    dm = deltafx.convert(model, backend="cuda", options={"check": True}, **settings)
    reference = deltafx.convert(model, backend="reference", **settings)
    assert_decides_alike(dm, reference, frames(18))
    assert not [node for node in deltafx.report(dm).nodes if node.note or node.kernel == "dense"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_forced_masks_count_the_same_work(dtype: torch.dtype) -> None:
    model = on_device(network(), dtype)
    dm, reference = (deltafx.convert(model, backend=name, options=SPARSE) for name in ("cuda", "reference"))
    mask = blobs(44, 60, 0.05, size=8)
    mask = torch.stack([mask, mask.flip(0)]).cuda()
    with force_masks(dm, mask), force_masks(reference, mask):
        for picture in frames(4, dtype):
            bar = 1e-5 if dtype == torch.float32 else 3e-2
            assert relative_error(list(dm(picture)), list(reference(picture))) < bar
    ours, theirs = (deltafx.report(each).totals for each in (dm, reference))
    assert ours["macs"] == theirs["macs"] < 0.6 * ours["macs_dense"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_stands_in_the_buffers_does_not_depend_on_the_frames_before(dtype: torch.dtype) -> None:
    model = on_device(network(), dtype)
    dm = deltafx.convert(model, backend="cuda", options=SPARSE)
    for picture in frames(dtype=dtype):
        dm(picture)
    fresh = deltafx.convert(model, backend="cuda")
    fresh(picture)
    for path, value in states(dm).items():
        assert torch.equal(value, states(fresh)[path]), path


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_frames_give_the_same_bits(dtype: torch.dtype) -> None:
    model, results = on_device(network(), dtype), []
    for _ in range(3):
        dm = deltafx.convert(model, backend="cuda", threshold=0.1)
        results.append([tensors_of(dm(picture)) for picture in frames(8, dtype)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert relative_error(a, b) == 0


def test_a_pixel_does_not_depend_on_how_many_are_computed_with_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(24, 72, 3, padding=1)).eval().cuda().half()
    dm = deltafx.convert(model, backend="cuda", options=SPARSE)
    x = torch.randn(1, 24, 19, 71, device="cuda", dtype=torch.half)
    whole = dm(x)
    for width in range(1, 71, 3):
        broken = x.clone()
        broken[..., :width] += 1
        dm(broken)
        assert torch.equal(dm(x), whole)


# Input channels, output channels, height, width, streams, and what else a convolution is made with. Some maps are so
# small that every block finds its pixels, others are collected; some rows are whole words; some depths are shared by
# several blocks.
CONVOLUTIONS = {
    "3x3": (64, 64, 45, 80, 2, {"kernel_size": 3, "padding": 1}),
    "3x3, large map": (64, 72, 180, 320, 2, {"kernel_size": 3, "padding": 1}),
    "3x3, deep": (512, 136, 23, 40, 2, {"kernel_size": 3, "padding": 1}),
    "3x3, rows of 17": (256, 256, 12, 17, 3, {"kernel_size": 3, "padding": 1}),
    "3x3, stride 2": (128, 128, 90, 160, 1, {"kernel_size": 3, "padding": 1, "stride": 2}),
    "3x3, stride 3, dilation 2": (32, 40, 61, 95, 2, {"kernel_size": 3, "padding": 2, "stride": 3, "dilation": 2}),
    "1x1": (256, 512, 45, 80, 2, {"kernel_size": 1}),
    "1x1, large map": (64, 256, 180, 320, 3, {"kernel_size": 1}),
    "1x1, stride 2": (256, 128, 45, 81, 2, {"kernel_size": 1, "stride": 2}),
    "5x5, groups": (96, 48, 33, 50, 2, {"kernel_size": 5, "padding": 2, "groups": 3}),
    "7x7, three channels": (3, 64, 97, 131, 2, {"kernel_size": 7, "padding": 3, "stride": 2}),
    "7x7, large map": (3, 64, 360, 640, 2, {"kernel_size": 7, "padding": 3, "stride": 2}),
    "3x3, four channels, dilation 2": (4, 24, 46, 75, 2, {"kernel_size": 3, "padding": 2, "dilation": 2}),
    "5x5, three channels, reflected": (3, 72, 40, 51, 2, {"kernel_size": 5, "padding": 2, "padding_mode": "reflect"}),
    "reflected": (64, 64, 30, 44, 2, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    "many streams": (64, 64, 1, 1, 40, {"kernel_size": 1}),
    "odd channels": (33, 65, 31, 45, 2, {"kernel_size": 3, "padding": 1}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_every_shape(name: str, dtype: torch.dtype) -> None:
    """The dense result, and after changes the bits of a fresh network; exactly the pixels computed that must be."""
    torch.manual_seed(0)
    channels, out, height, width, streams, options = CONVOLUTIONS[name]
    model = nn.Sequential(nn.Conv2d(channels, out, **options), nn.ReLU()).eval().to("cuda", dtype)
    dm, reference = (deltafx.convert(model, backend=each, options=SPARSE) for each in ("cuda", "reference"))
    x = torch.randn(streams, channels, height, width, device="cuda").to(dtype)
    for place in (0, 0.3, 0.9, 0.95):
        y, z = int(place * height), int(place * width)
        x[-1, :, y : y + 9, z : z + 14] += 1
        got = dm(x)
        exact, dense = model.double()(x.double()), model.to(dtype)(x)
        assert relative_error([got], [exact]) <= 3 * relative_error([dense], [exact]) + 1e-6
        reference(x)
        counts = [deltafx.report(each).totals["macs"] for each in (dm, reference)]
        assert counts[0] == counts[1], place
    fresh = deltafx.convert(model, backend="cuda")
    assert torch.equal(fresh(x), dm(x))
    assert not [node for node in deltafx.report(dm).nodes if node.note]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pixel_of_a_frame_that_is_not_a_number_reaches_no_other_window(dtype: torch.dtype) -> None:
    model = nn.Conv2d(3, 16, 3, stride=2, padding=1).eval().to("cuda", dtype)
    dm = deltafx.convert(model, backend="cuda", options=SPARSE)
    x = torch.randn(1, 3, 24, 38, device="cuda").to(dtype)
    dm(x)
    x[0, 1, 9, 14:18] = float("nan")
    x[0, :, 8:12, 10:24] += 1
    assert torch.equal(dm(x).isnan(), model(x).isnan())


def test_8_bit_frames() -> None:
    """Normalised on the device, where they changed; in any layout."""
    model = on_device(network())
    imagenet = deltafx.Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), swap_channels=True)
    for settings in ({}, {"mode": "balanced"}):
        dm, reference = (
            deltafx.convert(model, backend=name, preprocess=imagenet, options=SPARSE, **settings)
            for name in ("cuda", "reference")
        )
        frame = torch.randint(256, (2, 44, 60, 3), dtype=torch.uint8, device="cuda")
        for step in range(5):
            frame[step % 2, 5 * step : 5 * step + 9, 20:40] = 40 * step
            for given in (frame.clone(), frame.flip(2).contiguous().flip(2)):
                assert relative_error(list(dm(given)), list(reference(given))) < 1e-5


def test_no_frame_waits_for_the_device_or_allocates() -> None:
    model = on_device(network(), torch.float16)
    dm = deltafx.convert(model, backend="cuda", threshold=0.1, options={"copy_outputs": False})
    given = frames(9, torch.float16)
    for picture in given[:4]:  # thresholds are measured on the first picture
        dm(picture)
    with without_waiting_or_allocating():
        for picture in given[4:]:
            dm(picture)


def test_nor_does_one_that_counts_how_much_is_noise() -> None:
    """In exact mode, every frame all new: after 30 of them the user is told, when that costs nothing."""
    dm = deltafx.convert(nn.Conv2d(3, 8, 3).eval().cuda(), backend="cuda", options={"copy_outputs": False})
    given = [torch.randn(1, 3, 40, 60, device="cuda") for _ in range(2)]
    for step in range(4):
        dm(given[step % 2])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with without_waiting_or_allocating():
            for step in range(NOISE_FRAMES):
                dm(given[step % 2])
        torch.cuda.synchronize()
        dm(given[0])
    of_ours = [str(each.message) for each in said if "deltafx" in str(each.message)]
    assert [text.split(" %")[0] for text in of_ours] == ["deltafx: 100"]


@pytest.mark.parametrize("mode", ["balanced", "fast"])
def test_no_frame_of_a_mode_does_either_also_where_it_refreshes_what_was_touched(mode: str) -> None:
    model = on_device(network(), torch.float16)
    dm = deltafx.convert(model, backend="cuda", mode=mode, options={"copy_outputs": False})
    given = frames(69, torch.float16)
    for picture in given[:4]:
        dm(picture)
    with without_waiting_or_allocating():
        for picture in given[4:]:
            dm(picture)
    assert dm.runtime.plans[0].background.every < len(given) / 2


def test_what_was_touched_is_marked_in_one_launch() -> None:
    """As it is without a CUDA graph, in hundreds."""
    model, given = on_device(network()), [picture + 0.1 * step for step, picture in enumerate(frames(14))]
    settings = {"backend": "cuda", "threshold": 0.5, "refresh_touched": 6}
    dm, by_node = (
        deltafx.convert(model, options={**SPARSE, "cuda_graph": graph}, **settings) for graph in (True, False)
    )
    counts = []
    for picture in given:
        with Calls() as calls:
            got = dm(picture)
        counts.append(len(calls.names))
        assert relative_error(tensors_of(got), tensors_of(by_node(picture))) < 1e-5
        updated = [[node.update_rate for node in deltafx.report(each).nodes] for each in (dm, by_node)]
        assert updated[0] == updated[1]
    assert len(dm.runtime.plans[0].background.turns) > 10
    assert counts[6] <= counts[5]
    assert counts[12] <= counts[11]


class Large(nn.Module):
    """What is at full size at the end, as in a U-Net: a concatenation, and a sum that nothing can be fused into."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 3, 2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.up(self.down(x).relu())
        return torch.cat([y, x], 1), torch.sigmoid(x + y)


@pytest.mark.parametrize(("streams", "rows", "columns"), [(1, 1080, 1920), (3, 720, 1280), (1, 2160, 3840)])
def test_large_frames(streams: int, rows: int, columns: int) -> None:
    model = on_device(Large().eval())
    dm = deltafx.convert(model, backend="cuda")
    frame = torch.randn(streams, 3, rows, columns, device="cuda")
    for step in range(5):
        frame = frame.clone()
        frame[-1, :, 40 * step : 40 * step + 30, -50:] += 1
        assert relative_error(list(dm(frame)), list(model(frame))) < 1e-5
    assert not [node for node in deltafx.report(dm).nodes if node.note or node.kernel == "dense"]


class Flat(nn.Module):
    """Products of every kind, with biases."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 9, 3, padding=1, groups=9), nn.ReLU(),
            nn.Conv2d(9, 12, 1), nn.Conv2d(12, 12, 1, groups=12), nn.ReLU(), nn.ConvTranspose2d(12, 12, 2, 2),
            nn.PReLU(12), nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_may_lie_anywhere(dtype: torch.dtype) -> None:
    """Parameters that are parts of one vector begin at no multiple of 16 bytes."""
    model = on_device(Flat().eval(), dtype)
    vector = torch.nn.utils.parameters_to_vector(model.parameters())
    shifted = torch.empty(len(vector) + 1, device="cuda", dtype=dtype)[1:].copy_(vector)
    torch.nn.utils.vector_to_parameters(shifted, model.parameters())
    assert any(parameter.data_ptr() % 16 for parameter in model.parameters())
    for options in ({}, SPARSE):
        dm = deltafx.convert(model, backend="cuda", options=options)
        for picture in frames(6, dtype):
            bar = 1e-5 if dtype == torch.float32 else 3e-2
            assert relative_error([dm(picture)], [model(picture)]) < bar


class Sizes(nn.Module):
    """Decides by sizes: no graph, but what runs in place of one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y[..., ::2] if y.shape[-1] > 4 else y


def test_nor_does_one_of_a_model_in_parts_that_is_given_8_bit_frames() -> None:
    model = on_device(Sizes().eval(), torch.float16)
    half = deltafx.Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    dm = deltafx.convert(model, backend="cuda", preprocess=half)
    given = [torch.randint(256, (2, 44, 60, 3), dtype=torch.uint8, device="cuda") for _ in range(6)]
    for frame in given[:4]:
        dm(frame)
    with without_waiting():
        results = [dm(frame) for frame in given[4:]]
    assert list(dm.parts) == [""]
    assert relative_error([results[-1]], [model(half(given[-1]).half())]) < 1e-3


class Segmentation(nn.Module):
    """Resized to the frame's own shape, in a dictionary, as torchvision's segmentation networks do it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.head(self.backbone(x).relu())
        return {"out": F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False), "small": y}


def test_shape_arithmetic_and_dictionaries_do_not_keep_a_frame_from_being_one_graph() -> None:
    model = on_device(Segmentation().eval())
    dm = deltafx.convert(model, backend="cuda")
    for picture in frames(5):
        got, want = dm(picture), model(picture)
        assert relative_error(tensors_of(got), tensors_of(want)) < 1e-5
        assert list(got) == ["out", "small"]
    assert dm.runtime.plans[0].frame_graph is not None


def test_python_calls_one_operator_for_each_input_and_output() -> None:
    dm = deltafx.convert(on_device(Segmentation().eval()), backend="cuda")
    for picture in frames(5):
        dm(picture)
    with Calls() as calls:
        dm(picture)
    assert dm.runtime.plans[0].frame_graph is not None
    assert calls.names == ["deltafx_cuda.dense_to_delta.default", *["aten.clone.default"] * 2]


@pytest.mark.parametrize("before", [0, 4])
def test_nodes_that_are_looked_at_run_by_themselves_also_where_frames_were_captured(before: int) -> None:
    model = on_device(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1)))
    dm = deltafx.convert(model.eval(), backend="cuda")
    given = [torch.randn(1, 3, 40, 60, device="cuda") for _ in range(6)]
    for picture in given[:before]:
        dm(picture)
    assert deltafx.verify(model, dm, given).errors.keys() == {"0", "2", "4", "output"}
    wrong = dm.get_submodule("2").head.weight
    wrong.data = wrong.data * 1.01
    dm.float()  # the next frame is the first
    for picture in given[:before]:
        dm(picture)
    result = deltafx.verify(model, dm, given)
    assert (result.node, result.frame) == ("2", 0)
    for _ in range(4):  # as before
        assert relative_error([dm(given[0])], [dm(given[1])]) > 0
    assert dm.runtime.plans[0].frame_graph is not None


def test_it_runs_on_the_current_stream() -> None:
    model, stream = on_device(network()), torch.cuda.Stream()
    dm, other = deltafx.convert(model, backend="cuda"), deltafx.convert(model, backend="cuda")
    for picture in frames(4):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            ours = dm(picture)
        torch.cuda.current_stream().wait_stream(stream)
        assert relative_error(list(ours), list(other(picture))) == 0


def test_streams_of_the_users_take_turns() -> None:
    """Frames on two streams, one after the other: the graph that one captured is launched on the other."""
    model, streams = on_device(network()), [torch.cuda.Stream(), torch.cuda.Stream()]
    dm, other = deltafx.convert(model, backend="cuda"), deltafx.convert(model, backend="cuda")
    for number, picture in enumerate(frames(8)):
        stream = streams[number % 2]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(2_000_000)  # what is launched elsewhere would come first
            ours = dm(picture)
        torch.cuda.current_stream().wait_stream(stream)
        assert relative_error(list(ours), list(other(picture))) == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_several_devices_in_one_process() -> None:
    """Each model runs where its weights are, whichever device is the current one, and leaves that as it is."""
    models = {device: copy.deepcopy(network()).to(device) for device in ("cuda:0", "cuda:1")}
    ours = {device: deltafx.convert(model, backend="cuda") for device, model in models.items()}
    for number, picture in enumerate(pictures(8)):
        with torch.cuda.device(number % 2):
            results = {device: dm(picture.to(device)) for device, dm in ours.items()}
            assert torch.cuda.current_device() == number % 2
        for device, got in results.items():
            assert all(each.device == torch.device(device) for each in got)
            want = models[device](picture.to(device))
            assert relative_error(list(got), list(want)) < 1e-5
        assert relative_error([x.cpu() for x in results["cuda:0"]], [x.cpu() for x in results["cuda:1"]]) == 0
    assert all(dm.runtime.plans[0].frame_graph is not None for dm in ours.values())


def test_a_frame_in_another_place_runs_on_the_reference() -> None:
    dm = deltafx.convert(network(), backend="cuda")
    picture = pictures(1)[0]
    assert relative_error(list(dm(picture)), list(network()(picture))) < 1e-5
    assert deltafx.report(dm)["stem"].note == "it is on cpu"


# ---------------------------------------------------------------------------------------------------------------------
# Networks


def networks() -> list[str]:
    return ["resnet18", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", networks())
def test_networks_are_as_exact_as_dense_ones_and_forget(name: str, dtype: torch.dtype) -> None:
    pytest.importorskip("torchvision")
    from tests.networks.networks import network as named

    exact = on_device(named(name, 128, 128), torch.float64)
    model = on_device(named(name, 128, 128), dtype)
    dm = deltafx.convert(model, backend="cuda", options=SPARSE)
    for number, picture in enumerate(clip(25, 128, 128)):
        picture = picture.to("cuda", dtype)
        with torch.no_grad():
            want, dense = tensors_of(exact(picture.double())), tensors_of(model(picture))
        got = tensors_of(dm(picture))
        assert relative_error(got, want) <= 3 * relative_error(dense, want) + 1e-6, f"frame {number}"
    fresh = deltafx.convert(model, backend="cuda")
    assert relative_error(got, tensors_of(fresh(picture))) == 0
    assert not [node for node in deltafx.report(dm).nodes if node.note or node.kernel == "dense"]
