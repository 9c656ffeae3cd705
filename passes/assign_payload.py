"""Give every node the payload of the deltas it sends.

`value` (the default) reads inputs where they stand and never drifts; `difference` is DeltaCNN's form: linear nodes keep
no state, the others accumulate their inputs. The user's choice holds for the whole graph; tensors of integers or
booleans, which have no useful difference, and inputs that all streams share always travel as values.
"""

from __future__ import annotations

from torch import fx

from deltafx.node import DeltaNode, DenseToDelta
from deltafx.passes.context import Context, leaf_module


def assign_payload(graph_module: fx.GraphModule, context: Context) -> int:
    count = 0
    for node in graph_module.graph.nodes:
        module = leaf_module(graph_module, node)
        if isinstance(module, (DeltaNode, DenseToDelta)):
            count += module.payload != context.settings.payload
            module.payload = context.settings.payload
    return count
