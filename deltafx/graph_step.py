"""One node of a graph as a function of the values of its input nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from deltafx.ops.base import Slot, fill


def step_of(node: fx.Node, module: nn.Module | None) -> Callable[[list[Any]], Any]:
    """What runs a node from Python, given the values of its input nodes."""
    sources = list(node.all_input_nodes)
    slots: dict[fx.Node, Any] = {source: Slot(index) for index, source in enumerate(sources)}
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), slots.__getitem__)
    if node.op == "call_method":
        name = str(node.target)
        return lambda given: call(getattr(fill(args[0], given), name), args[1:], kwargs, given)
    if node.op == "output":
        return lambda given: fill(args[0], given)
    target: Any = node.target if module is None else module
    return lambda given: call(target, args, kwargs, given)


def call(function: Callable, args: tuple, kwargs: dict[str, Any], given: list[Any]) -> Any:
    return function(*fill(args, given), **fill(kwargs, given))
