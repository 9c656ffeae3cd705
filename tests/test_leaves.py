"""Leaf modules of graphs that somebody else captured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

import deltafx
from tests.passes.helpers import assert_same, frame


class Add(nn.Module):
    def forward(self, first: Tensor, second: Tensor, alpha: float = 1.0) -> Tensor:
        return torch.add(first, second, alpha=alpha)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("shift", torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)) + self.shift


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Model(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.conv, self.add, self.block, self.last = nn.Conv2d(3, 3, 1), Add(), Block(), last

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.last(self.block(self.add(y, x, alpha=2.0)))


def with_leaves(last: nn.Module | None = None) -> fx.GraphModule:
    """As a converter from another format gives it: its own modules are leaves."""

    class Leaves(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    torch.manual_seed(0)
    model = Model(last or nn.ReLU()).eval()
    return fx.GraphModule(model, Leaves().trace(model))


def paths(dm: Any) -> dict[str, str]:
    return {node.path: node.operator for node in deltafx.report(dm).nodes}


def test_they_are_looked_into() -> None:
    model = with_leaves()
    before = str(model.graph)
    dm = deltafx.convert(model, frame())
    assert paths(dm) == {
        "dense_to_delta.x": "dense_to_delta", "conv": "conv2d", "add": "add",
        "block.conv": "conv2d + relu + add + relu",
    }  # fmt: skip
    assert_same(dm, model, frame())
    assert str(model.graph) == before


def test_one_that_is_called_twice_stands_twice() -> None:
    model = with_leaves()
    (call,) = [node for node in model.graph.nodes if node.target == "block"]
    with model.graph.inserting_after(call):
        again = model.graph.call_module("block", (call,))
    call.replace_all_uses_with(again)
    again.args = (call,)
    model.recompile()
    dm = deltafx.convert(model, frame())
    assert {"block.conv", "block#2.conv"} <= set(paths(dm))
    assert_same(dm, model, frame())


def test_what_cannot_be_traced_stays_an_island() -> None:
    model = with_leaves(Untraceable())
    dm = deltafx.convert(model, frame())
    assert deltafx.report(dm)["last"].reason == "no operator is known for Untraceable"
    assert_same(dm, model, frame())


def test_what_has_hooks_stays_an_island() -> None:
    model = with_leaves()
    model.get_submodule("add").register_forward_hook(lambda module, args, result: result + 1)
    dm = deltafx.convert(model, frame())
    assert deltafx.report(dm)["add"].reason == "no operator is known for Add"
    assert_same(dm, model, frame())


def test_modules_of_pytorch_stay_as_they_are() -> None:
    model = with_leaves(nn.Threshold(0.1, 0.2))
    assert "threshold" in paths(deltafx.convert(model, frame()))["block.conv"]
