"""Choose the backend of every leaf module. It chooses their kernels when shapes are known: see `deltafx.buffers`."""

from __future__ import annotations

from torch import fx

from deltafx.backends import backend_for
from deltafx.node import FrameModule
from deltafx.passes.context import Context, leaf_module


def lower(graph_module: fx.GraphModule, context: Context) -> int:
    backend = backend_for(context.settings)
    count = 0
    for node in graph_module.graph.nodes:
        module = leaf_module(graph_module, node)
        if isinstance(module, FrameModule):
            count += module.backend != backend
            module.backend = backend
    return count
