"""How the pixels of a node are divided into units, each of which one block collects."""

from __future__ import annotations

from itertools import product

import pytest
import torch

pytest.importorskip("deltafx._cuda")
from deltafx import _cuda
from deltafx.backends.cuda.candidates import FLAT_ROW, STATIC_BYTES
from deltafx.backends.cuda.kernel import MOST_PIECES, pieces

SMALLEST = (99 << 10) - STATIC_BYTES  # shared memory that a block can ask for, of all devices from sm_80 on
SIZES = {"4k": (2160, 3840), "1080p": (1080, 1920), "720p": (720, 1280), "small": (23, 40), "one": (1, 1)}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("streams", [1, 2, 5, 16])
def test_units_are_few_and_fit_in_shared_memory(streams: int, size: tuple[int, int]) -> None:
    rows, columns = size
    for windowed, taps, stride in product((False, True), (1, 3, 7), (1, 2)):
        plane, wide = rows * columns, columns if windowed else min(rows * columns, FLAT_ROW)
        axes = ([stride, 0, 1, taps, stride * rows], [stride, 0, 1, taps, stride * columns])
        if not windowed:  # as every pixel reads itself
            axes = ([1, 0, 1, 1, 1], [1, 0, 1, 1, plane])
        assert streams <= _cuda.units(streams, plane, wide) <= _cuda.most_units
        small_enough = _cuda.unit_bytes(streams, plane, wide, windowed, *axes) <= SMALLEST
        assert small_enough or (windowed and size == SIZES["4k"] and streams == 16)


def test_a_unit_is_no_larger_than_a_stream() -> None:
    rows, columns = SIZES["720p"]
    axes = ([1, -1, 1, 3, rows], [1, -1, 1, 3, columns])
    assert _cuda.unit_bytes(500, rows * columns, columns, True, *axes) == 2 * rows * columns // 8


def test_pieces_of_a_matrix_are_counted_by_its_pitch() -> None:
    wide = torch.empty(16 * 2160 * 3840, 256, dtype=torch.float16, device="meta")
    assert pieces(wide) == wide.numel() // 8 > MOST_PIECES
    assert pieces(wide[:1000]) == 32_000
    assert pieces(wide[:1000, :8]) == 32_000
    assert pieces(torch.empty(10, 9, dtype=torch.float16)) == 20
    assert pieces(torch.empty(3)) == 0
