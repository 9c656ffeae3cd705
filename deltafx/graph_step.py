"""One node of a graph as a function of the values of all nodes before it.

Its arguments are taken apart once, so that a frame only picks values and calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from torch import fx, nn

Values = Mapping[fx.Node, Any]


def step_of(node: fx.Node, module: nn.Module | None) -> Callable[[Values], Any]:
    """What runs a node from Python, given the values of the nodes that it reads."""
    if node.op == "output":
        return picker(node.args[0])
    if node.op == "call_method":
        return method_step(str(node.target), node)
    function: Any = node.target if module is None else module
    first = node.args[0] if node.args else None
    if isinstance(first, fx.Node) and len(node.args) == 1 and not node.kwargs:
        return lambda values: function(values[first])
    args, kwargs = picker(node.args), picker(node.kwargs)
    return lambda values: function(*args(values), **kwargs(values))


def method_step(name: str, node: fx.Node) -> Callable[[Values], Any]:
    target, args, kwargs = picker(node.args[0]), picker(node.args[1:]), picker(node.kwargs)
    return lambda values: getattr(target(values), name)(*args(values), **kwargs(values))


def picker(template: Any) -> Callable[[Values], Any]:
    """What makes an argument of a node: the template with the values of the nodes in it.

    Its lists are new ones in every frame, which the function may write to, and ordinary ones.
    """
    if isinstance(template, fx.Node):
        return itemgetter(template)
    if isinstance(template, slice):
        start, stop, step = (picker(part) for part in (template.start, template.stop, template.step))
        return lambda values: slice(start(values), stop(values), step(values))
    if isinstance(template, dict):
        named = [(name, picker(part)) for name, part in template.items()]
        return lambda values: {name: part(values) for name, part in named}
    if isinstance(template, (list, tuple)):
        parts = [picker(part) for part in template]
        if isinstance(template, list):
            return lambda values: [part(values) for part in parts]
        kind: Any = type(template)
        if hasattr(kind, "_fields"):
            return lambda values: kind(*[part(values) for part in parts])
        return lambda values: tuple([part(values) for part in parts])
    return lambda values: template
