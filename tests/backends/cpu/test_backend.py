"""The CPU backend as a user meets it: options, the dense switch, what it leaves to the reference, determinism."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import deltafx
from deltafx.measure import relative_error
from deltafx.testing import blobs, clip, force_masks
from tests.backends.network import SETTINGS, assert_decides_alike, masks, network, pictures, states
from tests.small import frame, input_rate, small, touched, was_full

_cpu = pytest.importorskip("deltafx._cpu")
from deltafx.backends.cpu import convolution  # noqa: E402
from deltafx.backends.matrix import to_matrix  # noqa: E402

# ---------------------------------------------------------------------------------------------------------------------
# The reference's semantics


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_decides_as_the_reference_does(settings: dict[str, Any]) -> None:
    model = network()
    options = {"check": True, "dense_switch": False}
    dm = deltafx.convert(model, backend="cpu", options=options, **settings)
    reference = deltafx.convert(model, backend="reference", **settings)
    assert_decides_alike(dm, reference, pictures(18))


def test_forced_masks_count_the_same_work() -> None:
    model = network()
    dm, reference = (deltafx.convert(model, backend=name) for name in ("cpu", "reference"))
    mask = blobs(44, 60, 0.05, size=8)
    mask = torch.stack([mask, mask.flip(0)])
    with force_masks(dm, mask), force_masks(reference, mask):
        for picture in pictures(4):
            assert relative_error(list(dm(picture)), list(reference(picture))) < 1e-5
    ours, theirs = (deltafx.report(each).totals for each in (dm, reference))
    assert ours["macs"] == theirs["macs"] < 0.6 * ours["macs_dense"]


def test_what_stands_in_the_buffers_is_what_dense_gives() -> None:
    """In exact mode, after every frame, whatever came before: within rounding at every node."""
    model = network()
    dm = deltafx.convert(model, backend="cpu", options={"check": True, "dense_switch": False})
    for picture in pictures():
        dm(picture)
    fresh = deltafx.convert(model, backend="cpu", options={"dense_switch": False})
    fresh(picture)
    for path, value in states(dm).items():
        assert torch.equal(value, states(fresh)[path]), path


@pytest.mark.parametrize("isa", _cpu.instruction_sets)
def test_bits_do_not_depend_on_the_number_of_threads(isa: str) -> None:
    model, results = network(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        dm = deltafx.convert(model, backend="cpu", options={"isa": isa, "dense_switch": False})
        results.append([dm(picture) for picture in pictures(6)])
    torch.set_num_threads(1)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert relative_error(list(a), list(b)) == 0


def test_a_pixel_does_not_depend_on_how_many_are_computed_with_it() -> None:
    """Tiles of every length, with and without a rest, and the way for few pixels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(20, 40, 3, padding=1)).eval()
    dm = deltafx.convert(model, backend="cpu", options={"dense_switch": False})
    x = torch.randn(1, 20, 9, 31)
    whole = dm(x)
    for width in range(1, 32):
        broken = x.clone()
        broken[..., :width] += 1
        dm(broken)
        assert torch.equal(dm(x), whole)


# ---------------------------------------------------------------------------------------------------------------------
# Options


def test_the_dense_switch_gives_the_same_within_rounding(monkeypatch: Any) -> None:
    shares = {"grouped": 0.0, "transposed": 0.0}
    monkeypatch.setattr(convolution, "dense_share", lambda kind, *_: shares.get(kind, 1.0))
    model, calls = network(), []
    switched = deltafx.convert(model, backend="cpu", options={"check": True})
    sparse = deltafx.convert(model, backend="cpu", options={"dense_switch": False})
    for dm in (switched, sparse):
        dm(pictures(1)[0])
        for path in ("grouped", "up"):
            kernel = dm.runtime.plans[0].nodes[path].kernel
            if kernel.dense is not None:
                monkeypatch.setattr(kernel, "dense", lambda dense=kernel.dense: calls.append(1) or dense())
    for picture in pictures():
        assert relative_error(list(switched(picture)), list(sparse(picture))) < 1e-5
        for path, mask in masks(switched).items():
            assert not (mask.bool() & ~masks(sparse)[path].bool()).float().mean() > 0.02, path
    assert len(calls) >= 2 * 10, "the switched network ran neither layer densely"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_dense_is_always_faster(dtype: torch.dtype, monkeypatch: Any) -> None:
    """As for bfloat16 on a processor that multiplies it: every convolution and linear layer is switched."""
    monkeypatch.setattr(convolution, "dense_share", lambda *_: 0.0)
    model = network().to(dtype)
    switched = deltafx.convert(model, backend="cpu", options={"check": dtype == torch.float32})
    sparse = deltafx.convert(model, backend="cpu", options={"dense_switch": False})
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for picture in pictures():
        assert relative_error(list(switched(picture.to(dtype))), list(sparse(picture.to(dtype)))) < tolerance


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("streams", [1, 2])
def test_a_dense_result_may_lie_in_any_way(streams: int, memory_format: torch.memory_format) -> None:
    """oneDNN answers in the layout that it likes, which for bfloat16 is not always the input's."""
    x = torch.randn(streams, 5, 4, 6).contiguous(memory_format=memory_format)
    rows = to_matrix(x, (streams, 1, 4, 6))
    assert torch.equal(rows, x.permute(0, 2, 3, 1).reshape(-1, 5))
    assert rows.stride() == (5, 1)


def test_profiling_says_where_the_time_goes() -> None:
    dm = deltafx.convert(network(), backend="cpu", options={"profile": True})
    for picture in pictures(3):
        dm(picture)
    report = deltafx.report(dm)
    assert all(node.milliseconds > 0 for node in report.nodes if node.kernel != "constant")
    assert report.totals["milliseconds"] == pytest.approx(sum(node.milliseconds or 0 for node in report.nodes))
    assert " ms" in str(report).splitlines()[0]
    deltafx.reset(dm)
    assert deltafx.report(dm)["stem"].milliseconds_mean is None


def test_without_profiling_there_are_no_times() -> None:
    dm = deltafx.convert(small(), backend="cpu")
    dm(frame())
    report = deltafx.report(dm)
    assert {node.milliseconds for node in report.nodes} == {None}
    assert " ms" not in str(report).splitlines()[0]


def test_an_instruction_set_that_does_not_exist_is_refused() -> None:
    with pytest.raises(deltafx.ConvertError, match=r"option 'isa' 'sse'\. Known: avx2, avx512, portable"):
        deltafx.convert(small(), options={"isa": "sse"})


def test_an_instruction_set_that_the_processor_lacks_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(_cpu, "instruction_sets", ["portable"])
    with pytest.raises(deltafx.ConvertError, match=r"option 'isa': this processor has no avx2; it has portable"):
        deltafx.convert(small(), backend="cpu", options={"isa": "avx2"})


def test_build_info_says_what_was_built() -> None:
    info = deltafx.build_info()
    assert info["backends"]["cpu"] == "available"
    assert info["auto"] == "cpu"
    assert info["cpu"]["instruction_sets"][-1] == "portable"


# ---------------------------------------------------------------------------------------------------------------------
# What it leaves to the reference


@fx.wrap
def sorted_pixels(x: Tensor) -> Tensor:
    return x.sort(1)[0]


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(sorted_pixels(torch.sinc(self.conv(x))), 1)


def test_the_report_says_what_the_reference_runs_and_why() -> None:
    torch.manual_seed(0)
    dm = deltafx.convert(Mixed().eval(), backend="cpu")
    dm(frame())
    report = deltafx.report(dm)
    assert (report["conv"].kernel, report["conv"].note) == ("reference", "sinc has no compiled step")
    assert (report["cumsum"].kernel, report["cumsum"].note) == ("reference", "cumsum has no compiled kernel")
    assert (report["sorted_pixels"].kernel, report["sorted_pixels"].note) == ("dense", None)
    assert "reference kernel: conv (conv2d + sinc): sinc has no compiled step" in str(report)


@fx.wrap
def swapped(x: Tensor) -> Tensor:
    """Nobody knows what belongs to which stream afterwards."""
    return x.flip(0) * 1.5


@fx.wrap
def folded(x: Tensor) -> Tensor:
    """The first dimension has quarters of channels, and streams."""
    return x.reshape(-1, x.shape[1] // 4, *x.shape[2:])


class Unaligned(nn.Module):
    """What follows an island that may mix streams: every family of kernels."""

    def __init__(self, folds: bool) -> None:
        super().__init__()
        self.folds, channels = folds, 2 if folds else 8
        self.before = nn.Conv2d(3, 8, 3, padding=1)
        self.conv, self.depthwise = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        x = torch.relu(self.conv(folded(x) if self.folds else swapped(x)))
        gate = torch.sigmoid(x.mean((2, 3), keepdim=True))
        x = torch.cat([self.depthwise(x) * gate, x], 1)
        return self.head(self.pool(x).mean((2, 3)))


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_what_follows_an_island_is_compiled(folds: bool, streams: int) -> None:
    torch.manual_seed(0)
    model = Unaligned(folds).eval()
    dm = deltafx.convert(model, backend="cpu", options={"check": True, "dense_switch": False})
    reference = deltafx.convert(model, backend="reference")
    for number, picture in enumerate(clip(14, 20, 28, streams=streams)):
        if number in (5, 9):
            deltafx.reset(dm, streams=[streams - 1])
            deltafx.reset(reference, streams=[streams - 1])
        got, want = dm(picture), reference(picture)
        assert relative_error([got], [want]) < 1e-5
        for path, mask in masks(dm).items():
            assert (mask != masks(reference)[path]).float().mean() <= 0.02, f"frame {number}, {path}"
    kernels = {node.path: node.kernel for node in deltafx.report(dm).nodes}
    assert [path for path, kernel in kernels.items() if kernel in ("dense", "reference")] == [
        "folded" if folds else "swapped"
    ]


def test_what_the_reference_runs_rests_while_nothing_arrives(monkeypatch: Any) -> None:
    torch.manual_seed(0)
    model, calls = Mixed().eval(), []
    dm = deltafx.convert(model, backend="cpu")
    dm(frame())
    for node in dm.modules():
        if hasattr(node, "stages"):
            monkeypatch.setattr(node, "dense", lambda *args, dense=node.dense: calls.append(1) or dense(*args))
    want = dm(frame()).clone()
    assert calls == []
    assert all(node.update_rate == 0 for node in deltafx.report(dm).nodes)
    dm(touched(frame()))
    assert len(calls) == 3
    assert torch.equal(dm(frame()), want)


@pytest.mark.parametrize("move", [lambda dm: dm.half(), lambda dm: dm.double()], ids=["float16", "float64"])
def test_other_dtypes_run_on_the_reference(move: Any) -> None:
    model = small()
    dm = move(deltafx.convert(model, backend="cpu"))
    dtype = next(dm.parameters()).dtype
    x = frame().to(dtype)
    got = dm(x)
    torch.testing.assert_close(got, copy.deepcopy(model).to(dtype)(x), rtol=1e-2, atol=1e-2)
    assert deltafx.report(dm)["first"].note == f"there are no compiled kernels for {dtype}"


def test_the_difference_payload_runs_on_the_reference() -> None:
    dm = deltafx.convert(small(), backend="cpu", payload="difference")
    dm(frame())
    assert deltafx.report(dm)["first"].note == "the difference payload has no compiled kernels"


def stop(*args: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("node_by_node", [False, True])
def test_an_interrupted_frame_is_followed_by_a_full_one(node_by_node: bool, monkeypatch: Any) -> None:
    model = small()
    dm = deltafx.convert(model, backend="cpu", options={"frame_program": not node_by_node})
    dm(frame())
    dm(frame())
    plan = dm.runtime.plans[0]
    with monkeypatch.context() as patch:
        if node_by_node:
            patch.setattr(plan.nodes["second"].kernel, "compute", stop)
        else:
            patch.setattr(
                plan.frame_program, "run_compiled", lambda at, end: stop(plan.frame_program.program.run(0, 1))
            )
        with pytest.raises(KeyboardInterrupt):
            dm(frame(1))
    with torch.no_grad():
        torch.testing.assert_close(dm(frame()), model(frame()))
    assert was_full(dm)
    dm(touched(frame()))
    assert input_rate(dm) == 1 / 128


@pytest.mark.parametrize("isa", _cpu.instruction_sets)
@pytest.mark.parametrize("outputs", [8, 17, 40])
def test_sums_of_several_runs_for_few_pixels_and_half_a_panel(outputs: int, isa: str) -> None:
    """A compiler once read what stood in the result before the first run had written it."""
    torch.manual_seed(0)
    for inputs in (256, 257, 512, 1100):
        model = nn.Linear(inputs, outputs).eval()
        for pixels in (1, 2, 13, 15):
            x = torch.randn(pixels, inputs)
            got = deltafx.convert(nn.Sequential(model).eval(), backend="cpu", options={"isa": isa})(x)
            with torch.no_grad():
                assert relative_error([got], [model(x)]) < 1e-6, (inputs, pixels)
