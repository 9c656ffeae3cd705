"""Remove what does nothing at inference: dropout, identity, stochastic depth, detach, contiguous, asserts.

Why: every node left in the graph becomes a buffer and a mask. Most classifiers have dropout before the head, torchvision
EfficientNets and ConvNeXts stochastic depth in every block, models traced from ONNX many identities.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from deltafx.passes.context import Context, leaf_module

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
FUNCTIONAL_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
NAMED = ("stochastic_depth", "drop_path", "StochasticDepth", "DropPath")  # torchvision, timm
PASS_THROUGH_METHODS = ("detach", "contiguous", "requires_grad_")
ASSERTS = (torch._assert, operator.truth)


def drop_inference_noops(graph_module: fx.GraphModule, context: Context) -> int:
    count = 0
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is torch._assert:
            graph_module.graph.erase_node(node)
            count += 1
        elif node.all_input_nodes and passes_input_through(graph_module, node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph_module.graph.erase_node(node)
            count += 1
    return count


def passes_input_through(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in PASS_THROUGH_METHODS
    if node.op == "call_function":
        if node.target in FUNCTIONAL_DROPOUTS:
            return not argument(node, 2, "training", True)
        if getattr(node.target, "__name__", "") in NAMED:
            return not argument(node, 3, "training", True)
        return node.target is torch.detach
    module = leaf_module(graph_module, node)
    if module is None:
        return False
    kind = type(module)
    return kind is nn.Identity or kind in DROPOUTS or kind.__name__ in NAMED


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)
