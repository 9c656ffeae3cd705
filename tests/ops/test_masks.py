"""The helpers that mask rules are made of."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deltafx.ops.base import by_type, channel_dimension, everything, pixel_mask, spread, to_mask, tuple_of, union
from deltafx.ops.interpolate import axis_footprint
from deltafx.ops.view import collapse, expand_like, reshape_groups, reshape_mask
from deltafx.ops.window import window_mask


def mask_of(*shape: int, at: tuple[int, ...] = ()) -> Tensor:
    """A mask with one pixel set."""
    mask = torch.zeros(shape, dtype=torch.uint8)
    mask[at or (0,) * len(shape)] = 1
    return mask


class TestPixelMask:
    def test_keeps_its_own_layout(self) -> None:
        mask = mask_of(2, 1, 3, 5, at=(1, 0, 2, 4))
        assert torch.equal(pixel_mask(mask, (2, 7, 3, 5), channels=(1,)), mask)

    def test_makes_a_dimension_channels(self) -> None:
        assert pixel_mask(mask_of(2, 7, 1), (2, 7, 5), channels=(1,)).tolist() == [[[1] * 5], [[0] * 5]]

    def test_makes_a_dimension_pixels(self) -> None:
        assert pixel_mask(mask_of(2, 1, 1, 1), (2, 7, 3, 5), channels=(-3,)).sum() == 15

    def test_without_channels(self) -> None:
        assert pixel_mask(mask_of(2, 1), (2, 7), channels=()).sum(1).tolist() == [7, 0]


def test_union_broadcasts() -> None:
    row, column = mask_of(1, 1, 3, 1, at=(0, 0, 2, 0)), mask_of(1, 1, 1, 5, at=(0, 0, 0, 4))
    assert union([None, row, column])[0, 0].tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]


def test_union_needs_a_delta() -> None:
    with pytest.raises(AssertionError, match="without a delta input"):
        union([None, None])


def test_spread_makes_dimensions_channels() -> None:
    mask = mask_of(2, 1, 3, 5, at=(1, 0, 2, 4))
    assert spread(mask, (-1,)).flatten().tolist() == [0, 0, 0, 0, 0, 1]
    assert spread(mask, (2, 3)).flatten().tolist() == [0, 1]
    assert torch.equal(spread(mask, ()), mask)


@pytest.mark.parametrize("shape", [(2, 7, 3, 5), (2, 7), (3,), ()])
def test_everything_is_all_or_nothing(shape: tuple[int, ...]) -> None:
    output = torch.empty(shape)
    for changed in (0, 1):
        mask = everything([None, (torch.full((2, 1), changed, dtype=torch.uint8), None)], [], output)
        assert mask.dtype == torch.uint8
        assert mask.is_contiguous()
        assert mask.dim() == output.dim()
        assert mask.shape == torch.Size([1 if d == 1 else size for d, size in enumerate(shape)])
        assert bool((mask == changed).all())


def test_channel_dimension() -> None:
    assert [channel_dimension(torch.empty((2,) * rank)) for rank in range(5)] == [None, None, 1, 1, 1]


def test_to_mask_forgives_rounding() -> None:
    assert to_mask(torch.tensor([0.0, 1e-6, 0.999, 1.0, 49.0])).tolist() == [0, 0, 1, 1, 1]


def test_tuple_of() -> None:
    assert tuple_of(3, 2) == tuple_of((3,), 2) == tuple_of([3, 3], 2) == (3, 3)


def test_by_type_takes_the_first_that_fits() -> None:
    table: dict = {torch.nn.ReLU6: "relu6", torch.nn.Hardtanh: "hardtanh", torch.nn.Module: "other"}
    assert [by_type(m, table) for m in (torch.nn.ReLU6(), torch.nn.Hardtanh(), torch.nn.ReLU())] == list(table.values())


class TestCollapse:
    def test_drops_what_is_one_value_by_construction(self) -> None:
        assert collapse(mask_of(2, 1, 3).expand(2, 7, 3)).shape == (2, 1, 3)
        assert collapse(mask_of(2, 1, 3).expand(2, 7, 3).transpose(1, 2)).shape == (2, 3, 1)

    def test_keeps_what_only_happens_to_be_equal(self) -> None:
        assert collapse(torch.zeros(2, 7, 3, dtype=torch.uint8)).shape == (2, 7, 3)


def test_expand_like_reads_a_shape() -> None:
    assert expand_like(torch.ones(2, 1), torch.empty(2, 3, device="meta")).tolist() == [[1.0] * 3] * 2


class TestReshape:
    def test_groups_are_the_finest(self) -> None:
        assert reshape_groups((2, 7, 3, 5), (2, 7, 15)) == [([0], [0]), ([1], [1]), ([2, 3], [2])]
        assert reshape_groups((2, 6, 3), (2, 2, 3, 3)) == [([0], [0]), ([1], [1, 2]), ([2], [3])]
        assert reshape_groups((4, 6), (3, 8)) == [([0, 1], [0, 1])]

    def test_groups_cover_dimensions_of_size_one(self) -> None:
        for before, after in [((2, 7, 1, 1), (2, 7)), ((2, 7), (2, 7, 1, 1)), ((1, 1), ()), ((), (1,)), ((1, 6), (6,))]:
            groups = reshape_groups(before, after)
            assert sorted(d for old, _ in groups for d in old) == list(range(len(before)))
            assert sorted(d for _, new in groups for d in new) == list(range(len(after)))

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ((2, 6, 3, 5), (2, 6, 15), (2, 1, 15)),  # pixels stay pixels
            ((2, 6, 3, 5), (2, 2, 3, 3, 5), (2, 1, 1, 3, 5)),  # channels stay channels
            ((2, 6, 3, 5), (2, 90), (2, 1)),  # mixed: one pixel for each stream
            ((2, 6, 3, 5), (12, 3, 5), (12, 3, 5)),  # streams are kept apart from each other
            ((2, 6, 3, 5), (180,), (180,)),
            ((2, 6, 1, 1), (2, 6), (2, 1)),
            ((2, 6, 3, 5), (2, 18, 5), (2, 1, 5)),
        ],
    )
    def test_mask(self, before: tuple[int, ...], after: tuple[int, ...], expected: tuple[int, ...]) -> None:
        """The mask has the expected layout, and holds the elements of every changed pixel."""
        pixel = [1 if d == 1 else size for d, size in enumerate(before)]
        for place in itertools.product(*(range(size) for size in pixel)):
            mask = mask_of(*pixel, at=place)
            got = reshape_mask(mask, before, after)
            assert got.shape == torch.Size(expected)
            assert not (mask.expand(before).reshape(after).bool() & ~got.expand(after).bool()).any()
            if len(after) > 1:
                assert (got.amax(tuple(range(1, len(after)))).sum() == 1) or after[0] == 12


class TestWindowMask:
    def test_is_where_a_convolution_reads(self) -> None:
        """Against the NaNs that a convolution spreads."""
        for k, s, d, p in itertools.product((1, 2, 3, 5), (1, 2, 3), (1, 2), (0, 1, 2)):
            for place in range(9):
                x = torch.zeros(1, 1, 9)
                x[..., place] = float("nan")
                want = F.conv1d(x, torch.ones(1, 1, k), stride=s, padding=p, dilation=d).isnan()
                got = window_mask(mask_of(1, 1, 9, at=(0, 0, place)), x.shape, want.shape, (k,), (s,), (d,), [(p, p)])
                assert torch.equal(got.bool(), want)

    def test_uneven_padding(self) -> None:
        got = window_mask(mask_of(1, 1, 5, at=(0, 0, 4)), (1, 1, 5), (1, 1, 7), (3,), (1,), (1,), [(1, 3)])
        assert got.flatten().tolist() == [0, 0, 0, 1, 1, 1, 0]

    def test_padding_mode_moves_the_mask_round(self) -> None:
        got = window_mask(mask_of(1, 1, 5, at=(0, 0, 4)), (1, 1, 5), (1, 1, 5), (3,), (1,), (1,), [(1, 1)], "circular")
        assert got.flatten().tolist() == [1, 0, 0, 1, 1]

    def test_output_beyond_the_padding(self) -> None:
        """Ceil mode: the last window hangs over."""
        got = window_mask(mask_of(1, 1, 5, at=(0, 0, 4)), (1, 1, 5), (1, 1, 3), (2,), (2,), (1,), [(0, 0)])
        assert got.flatten().tolist() == [0, 0, 1]

    def test_reads_a_mask_of_another_layout(self) -> None:
        got = window_mask(mask_of(2, 7, 1, at=(1, 3, 0)), (2, 7, 5), (2, 4, 5), (1,), (1,), (1,), [(0, 0)])
        assert got.shape == (2, 1, 5)
        assert got.sum((1, 2)).tolist() == [0, 5]


class TestAxisFootprint:
    def footprint(self, *args: Any, rank: int = 2) -> list[list[int]]:
        return [positions.tolist() for positions in axis_footprint(*args, rank, torch.device("cpu"))]

    def test_nearest(self) -> None:
        assert self.footprint(2, 4, None, "nearest", None, False) == [[0, 0, 1, 1], [0, 0, 1, 1]]

    def test_linear(self) -> None:
        assert self.footprint(3, 5, None, "linear", True, False, rank=1) == [[0, 0, 1, 1, 2], [1, 1, 2, 2, 2]]

    def test_scale_is_not_the_quotient_of_sizes(self) -> None:
        assert self.footprint(4, 5, 1.49, "nearest", None, False)[0] == [0, 0, 1, 2, 2]
        assert self.footprint(4, 5, None, "nearest", None, False)[0] == [0, 0, 1, 2, 3]

    def test_large_axis(self) -> None:
        first, last = self.footprint(301, 301, None, "area", None, False)
        assert first == last == list(range(301))

    @pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("new", [1, 4, 7, 11, 16])
    def test_antialiasing(self, mode: str, new: int) -> None:
        first, last = self.footprint(11, new, None, mode, False, True)
        for j in range(11):
            x = torch.zeros(1, 1, 11, 3)
            x[0, 0, j] = float("nan")
            want = F.interpolate(x, size=(new, 3), mode=mode, antialias=True)[0, 0, :, 0].isnan().tolist()
            assert [a <= j <= b for a, b in zip(first, last, strict=True)] == want
