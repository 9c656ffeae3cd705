"""What a node keeps of one output."""

import pytest
import torch

from deltafx.state import MASK_UNIT, Leaf


@pytest.mark.parametrize("pixels", [(1, 1, 1, 1), (2, 1, 23, 41), (2,), (), (4, 1, 16, 16)])
def test_a_mask_has_whole_units_of_memory(pixels: tuple[int, ...]) -> None:
    """A kernel marks a pixel by setting a bit of four bytes, of which the last ones may lie behind the last pixel."""
    leaf = Leaf(torch.Size((2, 3, 23, 41)), torch.float32, torch.device("cpu"), (2829, 943, 41, 1), pixels)
    leaf.allocate_mask()
    assert leaf.mask.shape == pixels
    assert leaf.mask.is_contiguous()
    assert leaf.mask.untyped_storage().nbytes() % MASK_UNIT == 0
