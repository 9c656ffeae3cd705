"""Arguments of a call find their placeholders. What is refused is in test_bad_input.py."""

from __future__ import annotations

import pytest
import torch
from torch import fx

import deltafx
from deltafx.signature import Signature


def scaled(x, gain=2.0, *, shift=None):
    return x * gain if shift is None else x * gain + shift


def signature():
    return Signature.of(fx.symbolic_trace(scaled).graph)


@pytest.mark.parametrize(
    ("args", "kwargs", "bound"),
    [
        ((1, 2, 3), {}, [1, 2, 3]),
        ((1,), {}, [1, 2.0, None]),
        ((), {"shift": 3, "x": 1}, [1, 2.0, 3]),
        ((1,), {"gain": 5}, [1, 5, None]),
    ],
)
def test_each_placeholder_gets_its_value(args, kwargs, bound):
    assert signature().bind(args, kwargs) == bound


def test_what_is_missing_is_named():
    with pytest.raises(deltafx.FrameError, match="needs a value for argument 'x'"):
        signature().bind((), {"gain": 1.0})


def test_images_are_the_tensors_whose_rank_is_fixed():
    graph = fx.symbolic_trace(scaled).graph
    next(iter(graph.nodes)).meta["rank"] = 4
    x = torch.zeros(2, 3)
    assert Signature.of(graph).images([x, x, x]) == [("x", 4, x)]
    assert Signature.of(graph).images([1.0, x, x]) == []
