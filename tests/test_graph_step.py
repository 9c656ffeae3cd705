"""A node as a function of the values before it does what the node's call does."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import fx, nn

from deltafx.graph_step import step_of

Pair = namedtuple("Pair", "left right")
VALUES = {"x": torch.arange(12.0).view(3, 4), "n": 2}


def note(*args: Any, **kwargs: Any) -> tuple:
    return args, kwargs


def step(op: str, target: Any, args: tuple, kwargs: Any = None, module: nn.Module | None = None) -> Any:
    """The result for a node with these arguments, in which "x" and "n" stand for the values of nodes."""
    graph = fx.Graph()
    nodes = {name: graph.placeholder(name) for name in VALUES}

    def place(template: Any) -> Any:
        if isinstance(template, slice):
            return slice(*map(place, (template.start, template.stop, template.step)))
        if isinstance(template, dict):
            return {key: place(part) for key, part in template.items()}
        if isinstance(template, Pair):
            return Pair(*map(place, template))
        if isinstance(template, (list, tuple)):
            return type(template)(map(place, template))
        return nodes.get(template, template) if isinstance(template, str) else template

    node = graph.create_node(op, target, place(args), place(kwargs or {}))
    values = {nodes[name]: value for name, value in VALUES.items()}
    function = step_of(node, module)
    first = function(values)
    second = function(values)
    assert type(first) is type(second)
    return first


@pytest.mark.parametrize(
    ("args", "kwargs", "want"),
    [
        (("n",), {}, ((2,), {})),
        (("n", 3), {}, ((2, 3), {})),
        ((), {"a": "n", "b": [1, "n"]}, ((), {"a": 2, "b": [1, 2]})),
        (("n",), {"a": None}, ((2,), {"a": None})),
        (([("n", 1), {"k": ["n"]}],), {}, (([(2, 1), {"k": [2]}],), {})),
        ((slice("n", None, "n"),), {}, ((slice(2, None, 2),), {})),
        ((Pair("n", 1),), {}, ((Pair(2, 1),), {})),
    ],
    ids=str,
)
def test_a_function_gets_its_arguments(args: tuple, kwargs: dict[str, Any], want: tuple) -> None:
    got = step("call_function", note, args, kwargs)
    assert got == want
    assert [type(part) for part in got[0]] == [type(part) for part in want[0]]


def test_methods_and_modules_are_called() -> None:
    assert torch.equal(step("call_method", "sum", ("x", 1), {"keepdim": True}), VALUES["x"].sum(1, keepdim=True))
    assert torch.equal(step("call_method", "t", ("x",)), VALUES["x"].t())
    assert torch.equal(step("call_module", "m", ("x",), module=nn.Softmax(1)), VALUES["x"].softmax(1))


def test_lists_are_new_and_ordinary_in_every_frame() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    function = step_of(graph.output({"both": [x, [x]]}), None)
    first, second = function({x: 1}), function({x: 1})
    assert first == {"both": [1, [1]]}
    assert type(first) is dict
    assert type(first["both"]) is type(first["both"][1]) is list
    assert first["both"] is not second["both"]
    assert first["both"][1] is not second["both"][1]
