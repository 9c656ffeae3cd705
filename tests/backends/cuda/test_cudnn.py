"""How a convolution is described to cuDNN; that it computes it is tested in test_parts.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops import Conv, ConvTranspose

pytest.importorskip("deltafx._cuda")
from deltafx.backends.cuda import cudnn
from deltafx.backends.cuda.cudnn import Convolution
from deltafx.backends.cuda.dense_convolution import DenseConvolution
from deltafx.backends.cuda.ending import Operation, activated
from deltafx.backends.matrix import matrix_of
from deltafx.backends.steps import Steps
from deltafx.state import Leaf


def described(module: nn.Module, x: Tensor, filled_up: int, allow_tf32: bool = True) -> Convolution | None:
    """A transposed convolution of `x`, the channels of whose buffer are filled up with zeros to so many."""
    product: Any = SimpleNamespace(whole=ConvTranspose.from_module(module), x=SimpleNamespace(value=x))
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return Convolution.of(product, F.pad(pixels, (0, filled_up - x.shape[1])), allow_tf32)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the CPU can compute it."""
    monkeypatch.setattr(cudnn, "HALVES", (torch.float32,))
    monkeypatch.setattr(cudnn._cuda, "has_cudnn", True)


@pytest.mark.parametrize(
    "how",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 3, "stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)},
        {"kernel_size": (3, 4), "padding": 2, "dilation": (2, 1)},
    ],
    ids=str,
)
def test_a_transposed_one_is_the_gradient_of_one_by_its_data(how: dict[str, Any], monkeypatch: Any) -> None:
    torch.manual_seed(0)
    module, x = nn.ConvTranspose2d(6, 4, **how, bias=False), torch.randn(2, 6, 5, 7)
    want = module(x)
    conv = described(module, x, filled_up=8)
    assert conv is not None
    given = conv.x, conv.stride, conv.padding, conv.dilation
    torch.testing.assert_close(torch.nn.grad.conv2d_input(want.shape, conv.weight, *given), want)

    def convolve(x: Tensor, weight: Tensor, padding: Any, output_padding: Any, stride: Any, dilation: Any, groups: int,
                 *_: Any, out: Tensor) -> None:  # fmt: skip
        out.copy_(F.conv_transpose2d(x, weight, None, stride, padding, output_padding, groups, dilation))

    monkeypatch.setattr(cudnn, "cudnn_convolution_transpose", convolve)
    into = torch.empty_like(want)
    conv(into)
    torch.testing.assert_close(into, want)


def test_what_cudnn_does_not_end_by_itself_is_left_to_the_sparse_kernel(monkeypatch: Any) -> None:
    x = torch.randn(1, 6, 4, 4)
    assert described(nn.ConvTranspose2d(6, 6, 2, groups=2), x, 6) is None
    assert described(nn.ConvTranspose2d(6, 6, 2), x, 6) is not None
    monkeypatch.setattr(cudnn, "HALVES", (torch.float16,))
    assert described(nn.ConvTranspose2d(6, 6, 2), x, 6) is not None
    assert described(nn.ConvTranspose2d(6, 6, 2), x, 6, allow_tf32=False) is None


def applied(operations: Sequence[Operation], x: Tensor) -> Tensor:
    """As cuDNN is told to."""
    results = [x]
    for mode, operand, number in operations:
        other = results[int(number)] if operand == "result" else number
        how: dict[str, Callable[[Tensor], Tensor]] = {
            "add": lambda v, w=other: v + w, "mul": lambda v, w=other: v * w, "relu": torch.relu,
            "max": lambda v, w=other: torch.fmax(v, w),  # of NaN and a number, cuDNN's is the number
        }  # fmt: skip
        results.append(how[mode](results[-1]))
    return results[-1]


ENDINGS: dict[str, tuple[tuple[str, float, float], Callable[[Tensor], Tensor]]] = {
    "relu": (("relu", 0, 0), F.relu),
    "relu6": (("clamp", 0, 6), F.relu6),
    "no end": (("clamp", 0, math.inf), F.relu),
    "leaky_relu": (("leaky_relu", 0.1, 0), partial(F.leaky_relu, negative_slope=0.1)),
    "hardsigmoid": (("hardsigmoid", 0, 0), F.hardsigmoid),
    "hardswish": (("hardswish", 0, 0), F.hardswish),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_activations_are_made_of_what_cudnn_has(name: str) -> None:
    step, want = ENDINGS[name]
    x = torch.tensor([-math.inf, -1e4, -7.0, -2.5, -1e-3, 0.0, 1e-4, 0.3, 2.9, 5.99, 6.0, 7.0, 1e4, math.inf, math.nan])
    before: list[Operation] = [("add", "number", 1.0), ("mul", "number", 2.0)]
    operations = activated(*step, before=len(before))
    assert operations is not None
    torch.testing.assert_close(
        applied([*before, *operations], x), want((x + 1) * 2), equal_nan=True, rtol=1e-6, atol=1e-6
    )


def test_other_steps_are_not() -> None:
    assert activated("clamp", -1.0, 1.0, before=0) is None
    assert activated("leaky_relu", 1.5, 0.0, before=0) is None
    assert activated("mish", 0.0, 0.0, before=0) is None


@pytest.mark.parametrize("is_read", [False, True])
def test_odd_channels_are_filled_up_where_nothing_reads_that(is_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(**_: Any) -> None:
        raise RuntimeError("cuDNN has nothing")

    monkeypatch.setattr(cudnn._cuda, "FusedConvolution", nothing, raising=False)
    torch.manual_seed(0)
    module, x = nn.Conv2d(6, 5, 3), torch.randn(2, 6, 7, 9)
    product: Any = SimpleNamespace(whole=Conv.from_module(module), x=SimpleNamespace(value=x))
    convolution = Convolution.of(product, x.permute(0, 2, 3, 1).reshape(-1, 6), True)
    assert convolution is not None
    shape = torch.Size([2, 5, 5, 7])
    leaf = Leaf(shape, x.dtype, x.device, (175, 1, 35, 5), pixel=(2, 1, 5, 7), own=True, alignment=32)
    leaf.value, leaf.fill_is_read = leaf.allocate(), is_read
    steps = Steps(leaf, cudnn._cuda)
    plan: Any = SimpleNamespace(scratch={})
    form = DenseConvolution(convolution, steps, leaf, matrix_of(leaf), plan)
    form.propose()
    assert form.value.shape == (2, 5 if is_read else 8, 5, 7)
    assert form.value.data_ptr() == leaf.value.data_ptr()
    weight = form.convolution.weight
    torch.testing.assert_close(F.conv2d(x, weight[:5, :6]), F.conv2d(x, module.weight))
    assert weight[5:].count_nonzero() == 0
