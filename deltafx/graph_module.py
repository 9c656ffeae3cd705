"""What `convert` returns: an ordinary `torch.fx.GraphModule` whose call is one frame."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from deltafx.errors import FrameError
from deltafx.node import FrameModule
from deltafx.runtime import Runtime

RUNTIME = "_deltafx"


class DeltaGraphModule(fx.GraphModule):
    """The rewritten graph. Call it with a frame of every stream, `[N, C, H, W]`, one stream for each batch element.

    Print it, draw it and step through it like any GraphModule, before or after the first frame. Called through
    `forward`, or an `fx.Interpreter`, it is the dense network and touches no state.
    """

    @classmethod
    def assemble(cls, modules: dict[str, nn.Module], constants: dict[str, Any], graph: fx.Graph, runtime: Runtime
                 ) -> DeltaGraphModule:  # fmt: skip
        """A graph module from its parts; the leaf modules are attached to the runtime."""
        root = nn.Module()
        for name, module in modules.items():
            root.add_module(name, module)
        for name, constant in constants.items():
            if isinstance(constant, nn.Parameter):
                root.register_parameter(name, constant)
            else:
                root.register_buffer(name, constant)
        result = cls(root, graph)
        result.add_module(RUNTIME, runtime)
        result.eval()
        for module in result.modules():
            if isinstance(module, FrameModule):
                module.attach(runtime)
        parameters = [p for p in result.parameters() if p.is_floating_point()]
        dtypes, devices = {p.dtype for p in parameters}, {p.device for p in parameters}
        runtime.dtype = dtypes.pop() if len(dtypes) == 1 else None
        runtime.device = devices.pop() if len(devices) == 1 else None
        return result

    def parts(self) -> tuple[dict[str, Any], dict[str, Any], fx.Graph, Runtime]:
        modules = {name: module for name, module in self._modules.items() if name != RUNTIME}
        return modules, {**self._parameters, **self._buffers}, self.graph, self.runtime

    @property
    def runtime(self) -> Runtime:
        return self._modules[RUNTIME]  # type: ignore[return-value]

    @torch.compiler.disable(reason="a converted model keeps state from frame to frame")
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        refuse_tracing(args, kwargs)
        with self.runtime.frame(self, args, kwargs):
            return super().__call__(*args, **kwargs)

    def train(self, mode: bool = True) -> DeltaGraphModule:
        if mode:
            raise FrameError("a converted model runs inference only; train the model you converted, then convert again.")
        return super().train(False)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Loads weights saved from a converted model. They replace ours: weights borrowed from the caller stay his."""
        result = super().load_state_dict(state_dict, strict, assign=True)
        self.runtime.start_over()
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> DeltaGraphModule:
        return self.assemble(*copy.deepcopy(self.parts(), memo))

    def __copy__(self) -> DeltaGraphModule:
        return copy.deepcopy(self)  # two modules with one state would be one stream of frames

    def __reduce__(self) -> Any:
        return DeltaGraphModule.assemble, self.parts()


def refuse_tracing(args: tuple, kwargs: dict[str, Any]) -> None:
    """State from frame to frame cannot be traced into another graph."""
    leaves = pytree.tree_leaves((args, kwargs))
    if torch.compiler.is_exporting() or torch.jit.is_tracing() or any(is_symbolic(leaf) for leaf in leaves):
        raise FrameError(
            "a converted model keeps state from frame to frame and cannot be exported or traced; export the model you "
            "converted. Around it, torch.compile breaks the graph by itself."
        )


def is_symbolic(leaf: Any) -> bool:
    return isinstance(leaf, (fx.Proxy, torch._subclasses.FakeTensor))
