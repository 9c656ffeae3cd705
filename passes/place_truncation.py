"""Decide where small changes are withheld, and with which threshold.

Truncation points are the inputs, where the gate is, and every node that computes: convolutions and activations, but
also linear merges such as FPN additions, which flood a fine level with a coarse level's changes. What only moves data
passes its masks on.
"""

from __future__ import annotations

from torch import fx

from deltafx.calibration import fingerprint_of
from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.passes.context import Context, leaf_module
from deltafx.truncation import Truncation

MOVES_DATA = ("view", "concatenation")


def place_truncation(graph_module: fx.GraphModule, context: Context) -> int:
    settings = context.settings
    count = 0
    for node in graph_module.graph.nodes:
        module = leaf_module(graph_module, node)
        if isinstance(module, DenseToDelta):
            count += module.gate != settings.input_gate
            module.gate = settings.input_gate
        elif isinstance(module, DeltaNode) and module.head.locality not in MOVES_DATA:
            neighbours = [leaf_module(graph_module, each) for each in (*node.all_input_nodes, *node.users)]
            module.at_end = any(isinstance(each, (DenseToDelta, DeltaToDense)) for each in neighbours)
            threshold = settings.threshold_of(module.path, *module.fused_from, at_end=module.at_end)
            truncation = Truncation(threshold, settings.norm)
            count += module.truncation != truncation
            module.truncation = truncation
            context.truncation_points |= {module.path, *module.fused_from}
            if settings.calibration is not None:
                context.fingerprint[module.path] = fingerprint_of(module)
    return count
