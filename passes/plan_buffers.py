"""Decide which node's buffer is part of another's: views of their input, and concatenations without copies.

With `value` payload a buffer lives as long as the stream, so nothing can be reused; memory is saved by not having the
buffer at all. A view takes its input's. The operands of a concatenation write into the slices from which it is
read, unless an operand is an input, a view or an island, stands there twice, or already belongs to another
concatenation; such operands are copied, sparsely. Differences live for one frame and are freed by the generated code
after their last use.

The relations form a forest (networkx): an edge from a buffer to the one it is part of. It must have no cycle.
"""

from __future__ import annotations

import networkx as nx
from torch import fx

from deltafx.node import OWN, VIEW, DeltaNode, SliceOf
from deltafx.ops import Concat
from deltafx.passes.context import Context, delta_node


def plan_buffers(graph_module: fx.GraphModule, context: Context) -> int:
    if context.settings.payload != "value":
        return 0
    count = 0
    forest = nx.DiGraph()
    modules = {node: delta_node(graph_module, node) for node in graph_module.graph.nodes}
    for node, module in modules.items():
        if module is None:
            continue
        forest.add_node(node)
        if module.head.locality == "view" and len(module.stages) == 1:
            count += module.storage != VIEW
            module.storage = VIEW
            forest.add_edges_from((node, source) for source in node.all_input_nodes[:1] if modules.get(source))
    for node, module in modules.items():
        if module is not None and type(module.head) is Concat and len(module.stages) == 1:
            for operand in node.all_input_nodes:
                source = modules.get(operand)
                if source is not None and may_write_into(node, operand, source, forest):
                    source.storage = SliceOf(module.path)
                    forest.add_edge(operand, node)
                    count += 1
    assert nx.is_directed_acyclic_graph(forest)
    return count


def may_write_into(concat: fx.Node, operand: fx.Node, source: DeltaNode, forest: nx.DiGraph) -> bool:
    """Whether an operand's buffer can be a slice of the concatenation's."""
    if source.storage != OWN or source.island is not None:
        return False
    return list(concat.args).count(operand) == 1 and not nx.has_path(forest, concat, operand)
