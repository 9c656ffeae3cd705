"""The graph without the lines that hide it."""

from __future__ import annotations

import networkx as nx

CROWDED = 2  # lines for each node, above which they are thinned


def thin(graph: nx.DiGraph) -> nx.DiGraph:
    """The same graph; where it has many lines for its nodes, without those that follow from others.

    In a dense block every layer reads all before it: hundreds of lines, of which those from each layer to the next say
    as much about the order. The attribute `lines_left_out` counts them.
    """
    result = graph.copy()
    if graph.number_of_edges() > CROWDED * len(graph) and nx.is_directed_acyclic_graph(graph):
        kept = nx.transitive_reduction(graph)
        result.remove_edges_from([edge for edge in graph.edges if edge not in kept.edges])
    result.graph["lines_left_out"] = graph.number_of_edges() - result.number_of_edges()
    return result
