"""Which rows are added up by whom; that kernels do is tested in test_parts.py and test_emulated.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("deltafx._cuda")
from deltafx.backends.cuda.dense_form import DenseForm
from deltafx.backends.cuda.dense_operators import DenseDepthwise, DenseReduction
from deltafx.backends.window import same_pixels

LEAF: Any = SimpleNamespace(pixel=(2, 1, 1, 1))


def recipe(*arguments: Any, source: Any = None) -> Any:
    steps = SimpleNamespace(arguments=([], [], []))
    return SimpleNamespace(arguments=arguments, sources=[(source, "window")], steps=steps, window=same_pixels(1))


def reduction(source: Any, is_maximum: bool = False) -> DenseReduction:
    return DenseReduction(
        recipe(None, None, 3, is_maximum, 1.0, torch.zeros(6, 4), source=source), LEAF, torch.zeros(2, 4)
    )


def follow(*forms: tuple[Any, DenseForm]) -> None:
    written = {id(leaf): form for leaf, form in forms}
    for form in written.values():
        form.follow(written)


def test_one_mean_takes_sums_from_a_depthwise_convolution_of_the_same_part() -> None:
    read = SimpleNamespace()
    depthwise, mean, other, maximum = (
        DenseDepthwise(recipe(None), LEAF, torch.zeros(2, 4)), reduction(read), reduction(read), reduction(read, True)
    )  # fmt: skip
    follow((read, depthwise), (object(), maximum), (object(), mean), (object(), other))
    assert depthwise.sums is mean.partial
    assert mean.arrived is None
    assert other.arrived is other.counters
    assert maximum.arrived is maximum.counters

    follow((object(), mean))  # a part without it
    assert mean.arrived is mean.counters
    follow((read, depthwise), (object(), maximum))
    assert depthwise.sums is None
