"""Choose the kernel of every leaf module."""

from __future__ import annotations

from torch import fx

from deltafx.backends import kernel_for
from deltafx.node import FrameModule
from deltafx.passes.context import Context, leaf_module


def lower(graph_module: fx.GraphModule, context: Context) -> int:
    kernel = kernel_for(context.settings.backend)
    count = 0
    for node in graph_module.graph.nodes:
        module = leaf_module(graph_module, node)
        if isinstance(module, FrameModule):
            count += type(module.kernel) is not type(kernel)
            module.kernel = kernel  # type: ignore[assignment]
    return count
