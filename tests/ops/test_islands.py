"""What no operator knows runs densely, and its output is compared with the last one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import deltafx
from deltafx.ops.base import Call, CallOfTwo


class Unknown(nn.Module):
    """A leaf module of another library, with keyword arguments and weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7, 1, 1))

    def forward(self, x: Tensor, *, times: float = 1.0) -> dict[str, Any]:
        if x.sum() > 1e9:  # cannot be traced
            return {}
        return {"sum": x.sum((2, 3)), "nest": [x * self.weight * times, 3]}


Unknown.__module__ = "torch.nn.elsewhere"  # tracing stops at what stands in torch.nn


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unknown = Unknown()

    def forward(self, x: Tensor) -> Any:
        return self.unknown(x, times=2.0)["nest"][0] + 1


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(7, 5, 3)).eval()
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    return model


ISLANDS: dict[str, tuple[nn.Module, str]] = {
    "function": (Call(lambda x: torch.cumprod(x, 1)), "no operator is known for it"),
    "method": (Call(lambda x: x.logcumsumexp(2)), "no operator is known for it"),
    "tuple": (Call(lambda x: torch.frexp(x)), "no operator is known for it"),
    "two_inputs": (CallOfTwo(lambda x, y: torch.cdist(x, y)), "no operator is known for it"),
    "vector": (Call(lambda x: torch.trace(x[0, 0]).reshape(1)), "no operator is known for it"),
    "module": (nn.Sequential(nn.LPPool2d(2, 3)), "no operator is known for LPPool2d"),
    "module_with_keyword": (Keyword(), "no operator is known for Unknown"),
    "hooks": (hooked(), "it has hooks, which may do anything"),
    "weight_of_frame": (
        Call(lambda x: torch.nn.functional.conv2d(x, x.mean((2, 3), keepdim=True))),
        "its weights or options are computed from the frame",
    ),
}


@pytest.fixture(params=ISLANDS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("payload", ["value", "difference"])
def test_follows_dense(name: str, payload: str) -> None:
    model, reason = ISLANDS[name]
    model = model.eval()
    dm = deltafx.convert(model, payload=payload, backend="reference")
    assert [m.head.reason for m in dm.modules() if getattr(m, "island", None)] == [reason]
    inputs = 2 if isinstance(model, CallOfTwo) else 1
    first = [torch.randn(2, 7, 11, 13, generator=torch.Generator().manual_seed(0)) for _ in range(inputs)]
    changed = [x.clone() for x in first]
    changed[-1][1, :, 3, 4] = 5.0
    broken = [x.clone() for x in changed]
    broken[0][0, 0, 0, 0] = float("nan")
    for frame in (first, first, changed, broken, changed):
        want, got = pytree.tree_leaves(model(*frame)), pytree.tree_leaves(dm(*frame))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)


def test_island_is_sparse_again_behind(name: str) -> None:
    """A repeated frame changes nothing, so nothing is propagated."""
    model, _ = ISLANDS[name]
    dm = deltafx.convert(model.eval(), backend="reference")
    frame = [torch.randn(2, 7, 11, 13) for _ in range(2 if isinstance(model, CallOfTwo) else 1)]
    dm(*frame)
    dm(*frame)
    for path, state in dm.runtime.plans[0].nodes.items():
        assert all(leaf.mask.sum() == 0 for leaf in state.leaves), path


def test_island_has_weights_of_its_own() -> None:
    model = hooked()
    dm = deltafx.convert(model, backend="reference")
    dm.double()
    assert model[0].weight.dtype == torch.float32
    assert dm(torch.randn(2, 7, 5, 5, dtype=torch.float64)).dtype == torch.float64
