"""The rewritten graph as a networkx graph, with everything that the report knows, and as GraphML."""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike
from typing import TYPE_CHECKING, Any

import networkx as nx

from deltafx.views.nesting import ENTRY, groups_of, label_of
from deltafx.views.source import report_of

if TYPE_CHECKING:
    from deltafx.converted import Converted
    from deltafx.report import NodeReport, Report

EXIT = "delta_to_dense."


def to_networkx(dm: Converted | Report) -> nx.DiGraph:
    """The rewritten graph: a node for each row of the report, and one for each output.

    Attributes of a node are those of its row in the report (`deltafx.report.NodeReport`), its `kind` ("input",
    "delta", "island", "constant", "eager" or "output"), the modules that it stands in (`groups`, outermost first) and
    what of its name is left inside of them (`label`). An edge's `elements` is how many numbers travel along it, None
    before the first frame, and `handed_over` says whether it goes from one delta graph to another. The graph's own
    attributes are the totals.
    """
    report = report_of(dm, "to_networkx")
    graph = nx.DiGraph()
    graph.graph.update(report.totals, backend=report.backend, mode=report.mode, payload=report.payload)
    groups = groups_of([node.path for node in report.nodes])
    rows = {node.path: node for node in report.nodes}
    for node in report.nodes:
        above = groups[node.path]
        graph.add_node(node.path, **asdict(node), kind=kind_of(node), groups=above, label=label_of(node.path, above))
    for node in report.nodes:
        for path in node.inputs:
            graph.add_edge(path, node.path, elements=size_of(rows[path]), handed_over=node.path.startswith(ENTRY))
    for node in report.nodes:
        if node.is_output and not any(graph.edges[node.path, reader]["handed_over"] for reader in graph[node.path]):
            name = EXIT + node.path
            graph.add_node(
                name, path=name, kind="output", groups=(), label="delta_to_dense", operator=f"result of {node.path}"
            )
            graph.add_edge(node.path, name, elements=size_of(node), handed_over=False)
    return graph


def to_graphml(dm: Converted | Report, path: str | PathLike[str]) -> None:
    """Write the graph of `to_networkx` as GraphML, for yEd, Gephi and others.

    Lists become text with spaces between, and what is not known is left out, for which GraphML has no form.
    """
    graph = to_networkx(dm)
    plain = nx.DiGraph()
    plain.graph.update(plainly(graph.graph))
    for name, attributes in graph.nodes(data=True):
        plain.add_node(name, **plainly(attributes))
    for source, target, attributes in graph.edges(data=True):
        plain.add_edge(source, target, **plainly(attributes))
    nx.write_graphml(plain, path)


def plainly(attributes: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else value

    return {name: plain(value) for name, value in attributes.items() if value is not None}


def kind_of(node: NodeReport) -> str:
    if node.path.startswith(ENTRY):
        return "input"
    if node.kernel in ("eager", "constant"):
        return node.kernel
    return "delta" if node.reason is None else "island"


def size_of(node: NodeReport) -> int | None:
    if node.shape is None:
        return None
    elements = 1
    for size in node.shape:
        elements *= size
    return elements
