"""Each reason for which an operator has no mask rule, and that the result is right nevertheless."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deltafx
from deltafx.ops.base import Call, CallOfTwo

BATCH = "a batch dimension is needed"
INDEX = "it is indexed with a mask"
WEIGHT, ORDER = torch.randn(5, 7, 3, 3), torch.tensor([2, 0, 1])

REFUSALS: dict[str, tuple[Callable, str]] = {
    "conv": (lambda x: F.conv2d(x[0], WEIGHT), f"the input has 3 dimensions; {BATCH} (4 in all)"),
    "conv_transpose": (
        lambda x: F.conv_transpose2d(x[0], WEIGHT.transpose(0, 1)),
        f"the input has 3 dimensions; {BATCH} (4 in all)",
    ),
    "max_pool": (lambda x: F.max_pool2d(x[0], 2), f"the input has 3 dimensions; {BATCH} (4 in all)"),
    "avg_pool": (lambda x: F.avg_pool1d(x[0, 0], 2), f"the input has 2 dimensions; {BATCH} (3 in all)"),
    "adaptive_pool": (
        lambda x: F.adaptive_avg_pool2d(x.unsqueeze(0)[0, 0], 2),
        f"the input has 3 dimensions; {BATCH} (4 in all)",
    ),
    "return_indices": (nn.MaxPool2d(2, return_indices=True), "it returns the indices of the maxima"),
    "pixel_shuffle": (
        lambda x: F.pixel_shuffle(x[:, None, :4], 2),
        f"the input has 5 dimensions; {BATCH} (4 in all)",
    ),
    "pixel_unshuffle": (
        lambda x: F.pixel_unshuffle(x[:, None, :, :10, :12], 2),
        f"the input has 5 dimensions; {BATCH} (4 in all)",
    ),
    "antialias": (
        lambda x: F.interpolate(x, (5, 1), mode="bilinear", antialias=True),
        "PyTorch's antialiasing is not separable where the width is 1",
    ),
    "circular_crop": (lambda x: F.pad(x, (1, -1, 0, 0), "circular"), "it crops and pads circularly at once"),
    "mask_index": (lambda x: x[:, [True, False] * 3 + [True]], INDEX),
    "mask_tensor_index": (lambda x: x[:, :, torch.arange(11) > 3], INDEX),
    "attribute": (lambda x: x.real, "nothing is known of its attribute 'real'"),
    "repeat_interleave": (lambda x: x.repeat_interleave(2), "it repeats the flattened tensor"),
    "repeat_interleave_tensor": (
        lambda x: torch.repeat_interleave(x[:, :3], ORDER, dim=1),
        "it repeats each element another number of times",
    ),
    "einsum_diagonal": (lambda x: torch.einsum("ncii->nci", x[..., :11]), "it takes a diagonal"),
    "unfold": (lambda x: F.unfold(x[0], 2), f"the input has 3 dimensions; {BATCH} (4 in all)"),
    "fold": (lambda x: F.fold(x[0, 0, :4, :], (2, 14), 2), f"the input has 2 dimensions; {BATCH} (3 in all)"),
    "tensor_split": (lambda x: x.tensor_split(ORDER[:1] + 1, 1), "it is indexed with a tensor"),
    "dtype": (lambda x: x.view(torch.int32), "it changes the dtype"),
    "dtype_keyword": (lambda x: x.view(dtype=torch.int32), "it changes the dtype"),
    "dtype_of_other": (lambda x: x.view((x > 0).int().dtype), "it changes the dtype"),
    "empty_part": (lambda x: torch.cat([torch.empty(0), x, x], 1), "one of its parts is an empty vector"),
    "softmax": (lambda x: F.softmax(x, _stacklevel=5), "its dimension is not given"),
    "roll": (lambda x: torch.roll(x, 3), "it rolls the flattened tensor"),
    "roll_keyword": (lambda x: x.roll(shifts=3, dims=()), "it rolls the flattened tensor"),
    "where": (lambda x: torch.where(x > 0), "it returns the places where its condition holds"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("payload", ["value", "difference"])
@pytest.mark.parametrize("name", REFUSALS)
def test_says_why_and_follows_dense(name: str, payload: str) -> None:
    function, reason = REFUSALS[name]
    model = Call(function).eval()
    dm = deltafx.convert(model, payload=payload, backend="reference")
    x = torch.randn(2, 7, 11, 13, generator=torch.Generator().manual_seed(0))
    for frame in (x, torch.where(x.abs() > 0.1, x, 0.0)):
        want, got = model(frame), dm(frame)
        if isinstance(want, Tensor):
            want, got = (want,), (got,)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)
        if name == "where":
            break  # the shape of its result changes with the picture
    assert reason in [state.reason for state in dm.runtime.plans[0].nodes.values()]


def test_list_of_tensors_is_taken_only_where_it_is_known() -> None:
    model = Call(lambda x: torch.cat(x.split([3, 4], 1), 1)).eval()
    dm = deltafx.convert(model, backend="reference")
    dm(torch.randn(2, 7, 3, 5))
    assert {state.reason for state in dm.runtime.plans[0].nodes.values()} == {None}


def test_dimension_that_is_computed() -> None:
    model = CallOfTwo(lambda x, y: torch.cat([x, x], y.shape[1])).eval()
    dm = deltafx.convert(model, backend="reference")
    x, y = torch.randn(2, 7, 3, 5), torch.randn(2, 1, 4)
    assert torch.equal(dm(x, y), torch.cat([x, x], 1))
    assert dm.runtime.plans[0].nodes["cat"].reason == "its dimension is computed"


def test_batch_statistics_are_an_island() -> None:
    model = nn.Sequential(nn.BatchNorm2d(7, track_running_stats=False)).eval()
    dm = deltafx.convert(model, backend="reference")
    assert dm.get_submodule("0").island.reason == "it normalises with the statistics of the batch"
    x = torch.randn(2, 7, 3, 5)
    assert torch.equal(dm(x), model(x))
