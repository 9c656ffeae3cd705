"""The rewritten graph for Google's Model Explorer (the package ai-edge-model-explorer)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltafx.views.colours import STOPS, colour_of
from deltafx.views.graph import to_networkx
from deltafx.views.source import report_of

if TYPE_CHECKING:
    from deltafx.converted import Converted
    from deltafx.report import NodeReport, Report

NEEDS_EXPLORER = (
    "Model Explorer's files need its package: pip install 'deltafx[explore]' (or: pip install ai-edge-model-explorer)"
)
# What a file has of every node: its name, what is shown, and where it comes from in the report.
METRICS: dict[str, tuple[str, Callable[[NodeReport], float | None]]] = {
    "update_rate": ("pixels updated, %", lambda node: scaled(node.update_rate, 100)),
    "milliseconds": ("time, ms", lambda node: node.milliseconds),
    "macs": ("computed, million MACs", lambda node: scaled(node.macs, 1e-6)),
    "state": ("state, KiB", lambda node: scaled(node.state_bytes, 1 / 1024)),
}
SHOWN = (
    "path", "kind", "operator", "kernel", "reason", "note", "threshold", "update_rate", "update_rate_mean", "macs",
    "macs_mean", "macs_dense", "state_bytes", "milliseconds", "milliseconds_mean", "fused_from",
)  # fmt: skip
DENSE = "#c62828"


@dataclass(frozen=True)
class Explored:
    """What was written: the graph, the data of its nodes, and the command that shows them."""

    model: Path
    node_data: tuple[Path, ...]

    @property
    def command(self) -> str:
        paths = ",".join(map(str, self.node_data))
        return shlex.join(["model-explorer", str(self.model), f"--node_data_paths={paths}"])


def explore(dm: Converted | Report, folder: str | PathLike[str]) -> Explored:
    """Write the rewritten graph of `dm`, or of its report, for Model Explorer into `folder`, and print how to open it.

    `model.json` is the graph, nested by module; beside it is a file for each metric that the report has: share of
    pixels updated, time (with profiling), multiply-accumulates computed, and state, all of the last frame.

    Raises ImportError without the package ai-edge-model-explorer.
    """
    graph_builder, node_data_builder = check()
    report = report_of(dm, "explore")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    collection = graph_builder.GraphCollection(label="deltafx", graphs=[graph_of(report, graph_builder)])
    model = folder / "model.json"
    model.write_text(json.dumps(without_none(asdict(collection)), indent=1) + "\n", encoding="utf-8")
    written = []
    for metric in METRICS:
        data = node_data(report, metric, node_data_builder)
        path = folder / f"{metric}.json"
        path.unlink(missing_ok=True)  # that of an earlier run with profiling, say
        if data is not None:
            node_data_builder.ModelNodeData(graphsData={"delta graph": data}).save_to_file(str(path))
            written.append(path)
    explored = Explored(model, tuple(written))
    print(explored.command)
    return explored


def check() -> tuple[Any, Any]:
    try:
        from model_explorer import graph_builder, node_data_builder
    except ImportError as error:
        raise ImportError(NEEDS_EXPLORER) from error
    return graph_builder, node_data_builder


def graph_of(report: Report, builder: Any) -> Any:
    graph = to_networkx(report)
    nodes = []
    for name, data in graph.nodes(data=True):
        edges = [
            builder.IncomingEdge(sourceNodeId=source, targetNodeInputId=str(place))
            for place, source in enumerate(graph.predecessors(name))
        ]
        island = data["kind"] in ("island", "eager")
        nodes.append(
            builder.GraphNode(
                id=name,
                label=data["label"] if data["kind"] in ("input", "output") else data["operator"],
                namespace="/".join(data["groups"]),
                attrs=[builder.KeyValue(key=key, value=value) for key, value in attributes(data).items()],
                incomingEdges=edges,
                outputsMetadata=outputs(data, builder),
                style=builder.GraphNodeStyle(borderColor=DENSE) if island else None,
            )
        )
    totals = {key: str(value) for key, value in graph.graph.items() if value is not None}
    return builder.Graph(id="delta graph", nodes=nodes, groupNodeAttributes={"": totals})


def attributes(data: dict[str, Any]) -> dict[str, str]:
    """What the side panel shows of a node."""
    known = {key: data[key] for key in SHOWN if data.get(key) is not None}
    return {key: ", ".join(value) if isinstance(value, tuple) else str(value) for key, value in known.items()}


def outputs(data: dict[str, Any], builder: Any) -> list[Any]:
    if data.get("shape") is None:
        return []
    shape = builder.KeyValue(key="shape", value="x".join(map(str, data["shape"])))
    return [builder.MetadataItem(id="0", attrs=[shape])]


def node_data(report: Report, metric: str, builder: Any) -> Any:
    """The metric of every node that has it, coloured as all pictures are; None where no node has it."""
    title, read = METRICS[metric]
    values = {node.path: read(node) for node in report.nodes}
    known = {path: builder.NodeDataResult(value=value) for path, value in values.items() if value is not None}
    if not known:
        return None
    if metric == "update_rate":  # of which the scale is fixed
        thresholds = [builder.ThresholdItem(value=100 * share, bgColor=colour_of(share)) for share, _ in STOPS]
        return builder.GraphNodeData(results=known, name=title, thresholds=thresholds)
    gradient = [builder.GradientItem(stop=share, bgColor=colour_of(share)) for share, _ in STOPS]
    return builder.GraphNodeData(results=known, name=title, gradient=gradient)


def scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_none(each) for key, each in value.items() if each is not None}
    return [without_none(each) for each in value] if isinstance(value, list) else value
