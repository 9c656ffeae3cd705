"""Whether a model does the same in every frame: what its Python keeps from one call to the next is no part of a graph.

A model may set attributes as it runs: it may count, cache what depends on sizes, or keep features for others to see.
All of that is undone after a trace. It is harmless if a second trace, which finds what the first one left, gives the
same graph; else a frame depends on the frames before, which only the model's own Python knows.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from deltafx.errors import NoGraph
from deltafx.passes.context import constant_of

CONTAINERS = (list, dict, collections.OrderedDict, set)
OF_MODULES = frozenset(vars(nn.Module()))  # what every module has, such as its parameters


class Attributes:
    """What a model's modules have beside parameters, buffers and submodules, at one time."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.kept = {path: dict(snapshot(module)) for path, module in model.named_modules()}

    def changed(self) -> list[str]:
        """The paths of those that hold something else now, which may differ from frame to frame.

        What a trace made of weights alone is the same in every frame, and is given up: another trace makes it anew.
        """
        found = []
        for path, module in self.model.named_modules():
            before = self.kept.get(path, {})
            for name, value in list(snapshot(module)):
                was = before.get(name)
                if name.startswith("_tensor_constant") or (name in before and is_same(was, value)):
                    continue
                if not is_of_weights(gain(was, value)):
                    found.append(f"{path}.{name}" if path else name)
                elif name in before:
                    vars(module)[name] = copy.copy(was)
                else:
                    del vars(module)[name]
        return found


def snapshot(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """By name; containers as they are now."""
    if isinstance(module, torch.jit.ScriptModule):
        return
    for name, value in vars(module).items():
        if name not in OF_MODULES:
            yield name, copy.copy(value) if type(value) in CONTAINERS else value


def is_same(before: Any, after: Any) -> bool:
    """Whether it is the same object, or an equal plain one; containers are compared by what is in them."""
    if before is after:
        return True
    if type(before) is not type(after):
        return False
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(is_same, before, after))
    if isinstance(before, dict):
        return is_same(list(before), list(after)) and is_same(list(before.values()), list(after.values()))
    return isinstance(before, (bool, int, float, str, set)) and before == after


def gain(before: Any, after: Any) -> Any:
    """What is in a container now beside what was in it; all of it, if it is another one."""
    if isinstance(before, list) and isinstance(after, list) and is_same(before, after[: len(before)]):
        return after[len(before) :]
    if isinstance(before, dict) and isinstance(after, dict):
        return gain(list(before.values()), list(after.values()))
    return after


def is_of_weights(value: Any) -> bool:
    """Whether it stands for something, or has only what stands for something, that does not depend on the frame."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(map(is_of_weights, value))
    return isinstance(value, fx.Proxy) and not reads_the_frame(value.node)


def reads_the_frame(node: fx.Node) -> bool:
    seen, waiting = {node}, [node]
    while waiting:
        node = waiting.pop()
        if node.op == "placeholder":
            return True
        waiting += [source for source in node.all_input_nodes if source not in seen]
        seen.update(waiting)
    return False


def refuse_memory(model: nn.Module, graph: fx.Graph, again: Callable[[], fx.Graph], before: Attributes) -> None:
    """Raise NoGraph if the graph of the next frame is another one. `again` traces it."""
    changed = before.changed()
    if not changed:
        return
    first = list(described(model, graph))
    try:
        same = equal(first, list(described(model, again())))
    except Exception:  # whatever comes of what another trace left
        same = False
    if not same:
        raise NoGraph(
            f"{type(model).__name__} keeps {', '.join(map(repr, changed))} from one frame to the next, which a graph "
            f"would not. Make it an input and an output of the model, if the whole should be a graph."
        )


def described(model: nn.Module, graph: fx.Graph, left_out: Sequence[str] = ()) -> Iterator[Any]:
    """Every node, as what two graphs can be compared by: other nodes by number, constants by value. Arguments that are
    left out are None."""
    numbers: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        is_missing = node.op == "placeholder" and node.target in left_out
        numbers[node] = None if is_missing else f"%{len(numbers)}"
        target = constant_of(model, node) if node.op == "get_attr" else None
        args = fx.node.map_arg((node.args, node.kwargs), numbers.__getitem__)
        yield [node.op, str(node.target) if target is None else target, repr(args)]


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first is second or (first.shape == second.shape and torch.equal(first, second))
    return type(first) is type(second) and first == second
