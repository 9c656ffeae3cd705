"""Remove what does nothing at inference: dropout, identity, stochastic depth, detach, contiguous, asserts.

Why: every node left in the graph becomes a buffer and a mask. Most classifiers have dropout before the head,
torchvision EfficientNets and ConvNeXts stochastic depth in every block, models traced from ONNX many identities.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from deltafx.passes.context import Context, leaf_module

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
FUNCTIONAL_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
NAMED = ("stochastic_depth", "drop_path", "StochasticDepth", "DropPath")  # torchvision, timm
PASS_THROUGH_METHODS = ("detach", "contiguous", "requires_grad_")


def drop_inference_noops(graph_module: fx.GraphModule, context: Context) -> int:
    count = 0
    if graph_module.graph.find_nodes(op="call_method", target="contiguous"):
        view_any_strides(graph_module.graph)
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is torch._assert:
            graph_module.graph.erase_node(node)
            count += 1
        elif node.all_input_nodes and passes_input_through(graph_module, node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph_module.graph.erase_node(node)
            count += 1
    return count


def view_any_strides(graph: fx.Graph) -> None:
    """Let `view`, which asks for contiguous memory, take any."""
    for name in ("view", "view_as"):
        for node in graph.find_nodes(op="call_method", target=name):
            if not isinstance(node.args[1], torch.dtype):
                node.target = name.replace("view", "reshape")


def passes_input_through(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in PASS_THROUGH_METHODS
    if node.op == "call_function":
        if node.target in FUNCTIONAL_DROPOUTS or getattr(node.target, "__name__", "") in NAMED:
            return not in_training(node)
        return node.target is torch.detach
    module = leaf_module(graph_module, node)
    kind = type(module)
    drops = kind in DROPOUTS or kind.__name__ in NAMED
    return kind is nn.Identity or (module is not None and drops and not module.training)


def in_training(node: fx.Node) -> Any:
    """The `training` argument of a functional dropout, wherever it stands."""
    bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    bound.apply_defaults()
    return bound.arguments.get("training", True)
