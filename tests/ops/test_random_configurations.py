"""Random configurations: a NaN in one pixel turns NaN exactly the outputs that read it, and they are the mask."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deltafx import ops
from deltafx.ops import Op, Slot

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
sides = st.integers(1, 14)
streams_and_channels = st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 6]))


def pair(low: int, high: int) -> Any:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def run(op: Op, *inputs: Any) -> Tensor:
    """The operator's result; configurations that PyTorch refuses, or that give no pixels, are not examples."""
    try:
        result = op(*inputs)
    except (RuntimeError, ValueError, IndexError):
        result = torch.empty(0)
    assume(result.numel() > 0)
    return result


def check(data: Any, op: Op, shape: tuple[int, ...], exact: bool = True, others: tuple = ()) -> None:
    x = torch.ones(shape)
    output = run(op, x, *others)
    assume(op.refusal([x, *others]) is None)
    pixel = tuple(data.draw(st.integers(0, size - 1)) for size in (shape[0], *shape[2:]))
    mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.uint8)
    mask[pixel[0], 0, pixel[1], pixel[2]] = 1
    reached = run(op, x.masked_fill(mask.bool(), math.nan), *others).isnan()
    got = op.candidates([mask, *[None] * len(others)], [x, *others], output)
    assert got.dim() == output.dim()
    got = got.bool().expand(output.shape)
    assert not (reached & ~got).any()
    if exact:
        assert torch.equal(got, reached) or torch.equal(got, reached.any(1, keepdim=True).expand(output.shape))
    if not op.mixes_streams([x, *others]) and (not others or output.shape[0] == shape[0]):
        assert output.shape[0] == shape[0]
        assert not any(reached[n].any() for n in range(shape[0]) if n != pixel[0])


@EXAMPLES
@given(st.data(), streams_and_channels, sides, sides)
def test_convolution(data: Any, first: tuple[int, int], height: int, width: int) -> None:
    padding = data.draw(st.one_of(st.sampled_from(["same", "valid"]), pair(0, 3)))
    module = nn.Conv2d(
        first[1], 6, data.draw(pair(1, 5)), padding=padding, dilation=data.draw(pair(1, 3)),
        stride=1 if padding == "same" else data.draw(pair(1, 4)), groups=data.draw(st.sampled_from([1, first[1]])),
        padding_mode=data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )  # fmt: skip
    check(data, ops.Conv.from_module(module), (*first, height, width))


@EXAMPLES
@given(st.data(), streams_and_channels, sides, sides)
def test_transposed_convolution(data: Any, first: tuple[int, int], height: int, width: int) -> None:
    module = nn.ConvTranspose2d(
        first[1], 6, data.draw(pair(1, 4)), stride=data.draw(pair(1, 4)), padding=data.draw(pair(0, 2)),
        output_padding=data.draw(pair(0, 3)), dilation=data.draw(pair(1, 3)),
        groups=data.draw(st.sampled_from([1, first[1]])),
    )  # fmt: skip
    check(data, ops.ConvTranspose.from_module(module), (*first, height, width))


@EXAMPLES
@given(st.data(), streams_and_channels, sides, sides)
def test_pooling(data: Any, first: tuple[int, int], height: int, width: int) -> None:
    kernel, stride, ceil = data.draw(pair(1, 5)), data.draw(pair(1, 4)), data.draw(st.booleans())
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    op: Op = data.draw(
        st.sampled_from(
            [
                ops.MaxPool.from_module(nn.MaxPool2d(kernel, stride, padding, data.draw(pair(1, 3)), ceil_mode=ceil)),
                ops.AvgPool.from_module(nn.AvgPool2d(kernel, stride, padding, ceil, data.draw(st.booleans()))),
                ops.AdaptivePool.from_module(nn.AdaptiveAvgPool2d(data.draw(pair(1, 9)))),
            ]
        )
    )
    check(data, op, (*first, height, width))


@EXAMPLES
@given(st.data(), streams_and_channels, sides, sides)
def test_interpolation(data: Any, first: tuple[int, int], height: int, width: int) -> None:
    mode = data.draw(st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic", "area"]))
    options: dict[str, Any] = {"mode": mode}
    if data.draw(st.booleans()):
        options["size"] = data.draw(pair(1, 20))
    else:
        scale = st.floats(0.3, 3)
        options["scale_factor"] = data.draw(st.one_of(scale, st.tuples(scale, scale)))
        options["recompute_scale_factor"] = data.draw(st.booleans())
    if mode in ("bilinear", "bicubic"):
        options |= {"align_corners": data.draw(st.booleans()), "antialias": data.draw(st.booleans())}
    check(data, ops.Interpolate(F.interpolate, (Slot(0),), options), (*first, height, width))


@EXAMPLES
@given(st.data(), streams_and_channels, sides, sides)
def test_padding(data: Any, first: tuple[int, int], height: int, width: int) -> None:
    pads = data.draw(st.tuples(*[st.integers(-2, 3)] * 4))
    mode = data.draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
    check(data, ops.Pad(F.pad, (Slot(0), pads, mode)), (*first, height, width))


@EXAMPLES
@given(st.data(), streams_and_channels, sides, sides)
def test_indexing(data: Any, first: tuple[int, int], height: int, width: int) -> None:
    part = st.one_of(st.integers(-1, 0), st.builds(slice, st.integers(-3, 2), st.none(), st.integers(1, 3)))
    index = (slice(None), *data.draw(st.lists(part, max_size=3)), *data.draw(st.sampled_from([(), (..., None)])))
    check(data, ops.GetItem(operator.getitem, (Slot(0), index)), (*first, height, width))


@EXAMPLES
@given(st.data(), streams_and_channels, sides, sides)
def test_indexing_with_lists(data: Any, first: tuple[int, int], height: int, width: int) -> None:
    places = st.lists(st.integers(-1, 0), min_size=1, max_size=3)
    part = st.one_of(places, st.builds(torch.tensor, places), st.builds(slice, st.integers(-3, 2)), st.none())
    rest = st.sampled_from([(), (...,), (0,), (None,)])
    index = (*data.draw(rest), slice(None), *data.draw(st.lists(part, max_size=3)), *data.draw(rest))
    assume(sum(each is ... for each in index) < 2)
    check(data, ops.GetItem(operator.getitem, (Slot(0), index)), (*first, height, width), exact=False)


@EXAMPLES
@given(st.data(), streams_and_channels, sides, sides)
def test_einsum(data: Any, first: tuple[int, int], height: int, width: int) -> None:
    sizes = dict(zip("nchwk", (*first, height, width, 5), strict=True))
    other = "".join(data.draw(st.lists(st.sampled_from("nchwk"), min_size=1, max_size=4, unique=True)))
    letters = sorted(set("nchw" + other))
    result = "".join(data.draw(st.lists(st.sampled_from(letters), max_size=5, unique=True)))
    weight = torch.ones([sizes[letter] for letter in other])
    op = ops.Einsum(torch.einsum, (f"nchw,{other}->{result}", Slot(0), Slot(1)))
    check(data, op, (*first, height, width), exact=False, others=(weight,))


@EXAMPLES
@given(st.data(), streams_and_channels, sides, sides)
def test_reshaping(data: Any, first: tuple[int, int], height: int, width: int) -> None:
    shape = (*first, height, width)
    rest, after = math.prod(shape), []
    if data.draw(st.booleans()):
        after, rest = [first[0]], rest // first[0]
    while rest > 1:
        after.append(data.draw(st.sampled_from([d for d in range(1 + (len(after) > 4), rest + 1) if rest % d == 0])))
        rest //= after[-1]
    check(data, ops.Reshape(torch.reshape, (Slot(0), tuple(after))), shape, exact=False)  # mixed groups are one pixel
