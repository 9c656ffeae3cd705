"""Networks of a line or two, and what every pass is held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

import deltafx
from deltafx.capture import capture
from deltafx.measure import tensors_of
from deltafx.node import DeltaNode
from deltafx.ops import Op
from deltafx.passes import PASSES, Context
from deltafx.passes.context import leaf_module
from deltafx.settings import Settings, resolve
from tests.tolerance import TOLERANCE

DEFAULTS: dict[str, Any] = {
    "mode": "exact", "threshold": None, "norm": "rms", "input_gate": None, "preprocess": None, "payload": "value",
    "backend": "reference", "keep_dense": (), "refresh_every": None, "strict": False, "dump": None, "options": None,
}  # fmt: skip


def net(forward: Callable, **parts: Any) -> nn.Module:
    """A module in evaluation mode with this forward, `forward(self, x)`, and these modules, parameters and buffers."""
    module = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            module.register_buffer(name, part)
        else:
            setattr(module, name, part)
    return module.eval()


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm that has seen data."""
    norm = nn.BatchNorm2d(channels)
    for tensor, low, high in ((norm.weight, 0.5, 2), (norm.bias, -1, 1), (norm.running_mean, -1, 1)):
        nn.init.uniform_(tensor, low, high)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def asserts(self: nn.Module, x: Tensor) -> Tensor:
    """A forward with assertions; it stands here because pytest rewrites those in test modules."""
    assert x.shape[1] == 3, "three channels"
    assert x.dim() == 4
    assert not x.is_complex()
    return x * 2


def frame(*shape: int) -> Tensor:
    return torch.randn(shape or (2, 3, 9, 11))


def settings_of(**arguments: Any) -> Settings:
    return resolve(**{**DEFAULTS, **arguments})


def before(rewrite: Callable, model: nn.Module, **arguments: Any) -> tuple[fx.GraphModule, Context]:
    """The graph as `rewrite` finds it."""
    graph_module, context = capture(model), Context(settings_of(**arguments))
    for each in PASSES:
        if each is rewrite:
            return graph_module, context
        each(graph_module, context)
        graph_module.graph.lint()
        graph_module.recompile()
    raise AssertionError(f"{rewrite} is not a pass")


def apply(rewrite: Callable, model: nn.Module, *inputs: Any, **arguments: Any) -> tuple[fx.GraphModule, int]:
    """The graph after `rewrite`, and how many rewrites it made. Numbers stay the model's; a second run makes none."""
    graph_module, context = before(rewrite, model, **arguments)
    assert_same(graph_module, model, *inputs)
    count = rewrite(graph_module, context)
    graph_module.graph.lint()
    graph_module.recompile()
    assert_same(graph_module, model, *inputs)
    written = str(graph_module.graph)
    assert rewrite(graph_module, context) == 0, "a second run makes rewrites"
    assert str(graph_module.graph) == written
    return graph_module, count


def assert_same(got: nn.Module, want: nn.Module, *inputs: Any) -> None:
    for a, b in zip(results(got, inputs), results(want, inputs), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=TOLERANCE[torch.float32], atol=TOLERANCE[torch.float32])


def results(module: nn.Module, inputs: tuple) -> list[Tensor]:
    copies = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
    with torch.no_grad():
        return tensors_of(module(*copies))


def assert_follows(model: nn.Module, frames: list[Tensor], **arguments: Any) -> deltafx.graph_module.DeltaGraphModule:
    """The converted model gives what the dense one gives, frame after frame, with every rule checked."""
    converted = deltafx.convert(model, backend="reference", options={"check": True}, **arguments)
    for each in frames:
        for a, b in zip(results(converted, (each,)), results(model, (each,)), strict=True):
            torch.testing.assert_close(a, b, rtol=TOLERANCE[torch.float32], atol=TOLERANCE[torch.float32])
    return converted


def clip(*shape: int) -> list[Tensor]:
    """A frame, the same with some pixels of one stream changed, the same again, and another frame."""
    first = frame(*shape)
    second = first.clone()
    second[0, :, 2:4, 3:5] += 1
    return [first, second, second.clone(), frame(*shape)]


# -- looking at graphs ------------------------------------------------------------------------------------------------


def calls(graph_module: fx.GraphModule) -> list[str]:
    """The functions, methods and types of modules that a graph calls, in order."""
    return [name_of(graph_module, node) for node in graph_module.graph.nodes if node.op.startswith("call")]


def name_of(graph_module: fx.GraphModule, node: fx.Node) -> str:
    module = leaf_module(graph_module, node)
    if module is not None:
        return type(module).__name__
    return node.target if isinstance(node.target, str) else node.target.__name__


def operators(graph_module: fx.GraphModule) -> dict[str, str]:
    """The operator, or chain of operators, behind the path of every node that computes."""
    modules = {node.meta["path"]: leaf_module(graph_module, node) for node in graph_module.graph.nodes}
    modules = {path: module for path, module in modules.items() if isinstance(module, (DeltaNode, Op))}
    return {path: " + ".join(op.name for op in chain(module)) for path, module in modules.items()}


def chain(module: DeltaNode | Op) -> list[Op]:
    return [stage.op for stage in module.stages] if isinstance(module, DeltaNode) else [module]


def node_at(graph_module: fx.GraphModule, path: str) -> fx.Node:
    """The node of this path."""
    (node,) = [node for node in graph_module.graph.nodes if node.meta["path"] == path]
    return node


def module_at(graph_module: fx.GraphModule, path: str) -> Any:
    """The module behind the node of this path."""
    return leaf_module(graph_module, node_at(graph_module, path))
