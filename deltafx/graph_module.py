"""What `convert` returns: an ordinary `torch.fx.GraphModule` whose call is one frame."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from deltafx.errors import FrameError
from deltafx.history import History
from deltafx.node import FrameModule, refuse_export, take_over_weights
from deltafx.runtime import Runtime

RUNTIME = "_deltafx"
KEPT_META = ("path", "rank", "stack_trace")  # of a node; plain data, so that copies print the same


class DeltaGraphModule(fx.GraphModule):
    """The rewritten graph. Call it with a frame of every stream, `[N, C, H, W]`, one stream for each batch element.

    Print it, draw it and step through it like any GraphModule, before or after the first frame. An `fx.Interpreter`
    runs it as the dense network and touches no state. `history` says what each pass of the compiler did.
    """

    history: History | None = None

    @property
    def runtime(self) -> Runtime:
        return self._modules[RUNTIME]  # type: ignore[return-value]

    def recompile(self) -> Any:
        """Regenerate `forward` from the graph; its call is one frame."""
        code = super().recompile()
        type(self).forward = as_frame(type(self).forward)
        if RUNTIME in self._modules:
            self.runtime.start_over()  # plans are of the graph as it was
        return code

    def train(self, mode: bool = True) -> DeltaGraphModule:
        if mode:
            raise FrameError("a converted model runs inference only; train the model it came from and convert again.")
        return super().train(False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        take_over_weights(self, recurse=False)  # those of the leaf modules see to it themselves
        self.runtime.forget_weights()
        super()._load_from_state_dict(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> DeltaGraphModule:
        return put_together(*copy.deepcopy(take_apart(self), memo))

    def __copy__(self) -> DeltaGraphModule:
        return copy.deepcopy(self)  # two modules with one state would be one sequence of frames

    def __reduce__(self) -> Any:
        return put_together, take_apart(self)


def as_frame(forward: Callable) -> Callable:
    """The generated `forward`, run as one frame; what traces or compiles the call meets this wrapper, not the graph."""

    @torch.compiler.disable(reason="a converted model keeps state from frame to frame")
    @functools.wraps(forward)
    def frame(self: DeltaGraphModule, *args: Any, **kwargs: Any) -> Any:
        refuse_export()
        return self.runtime.run(self, forward, args, kwargs)

    return frame


# ---------------------------------------------------------------------------------------------------------------------
# Taking it apart and putting it together


@dataclass(frozen=True)
class Reference:
    """Stands for the node of that name in a record's arguments."""

    name: str


def record(graph: fx.Graph) -> list[tuple]:
    """The graph as plain rows: nodes that refer to each other are too deep a recursion for pickle and copy."""

    def reference(argument: Any) -> Any:
        return Reference(argument.name) if isinstance(argument, fx.Node) else argument

    return [
        (
            node.op,
            node.target,
            *fx.node.map_aggregate((node.args, node.kwargs), reference),
            node.name,
            node.type,
            {name: node.meta[name] for name in KEPT_META if name in node.meta},
        )
        for node in graph.nodes
    ]


def replay(rows: list[tuple]) -> fx.Graph:
    """The graph of a record."""
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def node_of(argument: Any) -> Any:
        return nodes[argument.name] if isinstance(argument, Reference) else argument

    for op, target, args, kwargs, name, kind, meta in rows:
        args, kwargs = fx.node.map_aggregate((args, kwargs), node_of)
        nodes[name] = graph.create_node(op, target, args, kwargs, name=name, type_expr=kind)
        nodes[name].meta = dict(meta)
    return graph


def take_apart(module: DeltaGraphModule) -> tuple[dict[str, Any], dict[str, Any], list[tuple], Runtime, dict[str, Any]]:
    """Modules, constants, graph, runtime, and the attributes that the user added."""
    modules = {name: part for name, part in module._modules.items() if name != RUNTIME}
    extra = {name: x for name, x in vars(module).items() if name[0] != "_" and name not in ("training", "shape_env")}
    return modules, {**module._parameters, **module._buffers}, record(module.graph), module.runtime, extra


def put_together(
    modules: dict[str, nn.Module],
    constants: dict[str, Any],
    rows: list[tuple],
    runtime: Runtime,
    extra: dict[str, Any],
) -> DeltaGraphModule:
    """A graph module from its parts; the leaf modules are attached to the runtime."""
    root = nn.Module()
    for name, module in modules.items():
        root.add_module(name, module)
    for name, constant in constants.items():
        if isinstance(constant, nn.Parameter):
            root.register_parameter(name, constant)
        else:
            root.register_buffer(name, constant)
    result = DeltaGraphModule(root, replay(rows))
    result.add_module(RUNTIME, runtime)
    vars(result).update(extra)
    for part in result.modules():
        if isinstance(part, FrameModule):
            part.attach(runtime)
    return result.eval()
