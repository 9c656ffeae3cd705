"""A fused node's later stages as steps."""

from __future__ import annotations

import pytest
import torch

from deltafx.backends.steps import CHAIN, Steps
from deltafx.state import Leaf

compiled = pytest.importorskip("deltafx._cpu")


def leaf() -> Leaf:
    made = Leaf(torch.Size((2, 3, 4, 5)), torch.float32, torch.device("cpu"), (60, 1, 15, 3), pixel=(2, 1, 4, 5))
    made.value = torch.zeros(2, 4, 5, 3).permute(0, 3, 1, 2)
    return made


def test_a_sum_is_the_same_step_in_either_order() -> None:
    steps, other = Steps(leaf(), compiled), leaf()
    steps.binary("add", CHAIN, other, 1)
    steps.binary("add", other, CHAIN, 1)
    steps.binary("add", other, CHAIN, 2)
    names = {number: name for name, number in compiled.codes.items()}
    assert [names[code] for code in steps.codes[::2]] == ["add", "add", "rsub"]
    assert steps.numbers[::2] == [1.0, 1.0, -2.0]
