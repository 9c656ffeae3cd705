"""The rewritten graph as a picture, laid out by Graphviz."""

from __future__ import annotations

import html
import math
import shutil
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx

from deltafx.errors import unknown_name
from deltafx.views.colours import STOPS, UNKNOWN, colour_of
from deltafx.views.folded import fold
from deltafx.views.graph import to_networkx
from deltafx.views.source import report_of
from deltafx.views.text import shorten
from deltafx.views.thinned import thin

if TYPE_CHECKING:
    from deltafx.converted import Converted
    from deltafx.report import Report

FORMATS = ("svg", "png", "pdf", "dot")
BY = {"update_rate": "update rate", "macs": "multiply-accumulates", "milliseconds": "time"}
MOST = 160  # nodes of a picture, unless a depth is asked for
NEEDS_PYDOT = "pictures of graphs need pydot: pip install 'deltafx[draw]' (or: pip install pydot)"
NEEDS_DOT = (
    "pictures of graphs are laid out by Graphviz, whose program `dot` is not on the PATH. Install it (apt install "
    "graphviz, brew install graphviz, winget install graphviz), or write a .dot file, which needs no layout."
)
FONT, INK, FAINT, DENSE = "Helvetica,Arial,sans-serif", "#20242c", "#5d6675", "#c62828"
FILLS = ("#f6f7f9", "#eceff3", "#e2e6ec")  # of modules, by depth
SHAPES = {"input": "oval", "output": "oval"}


def draw(
    dm: Converted | Report, path: str | PathLike[str], *, by: str = "update_rate", depth: int | None = None
) -> Path:
    """Draw the rewritten graph of `dm`, or of its report, into a .svg, .png, .pdf or .dot file; returns its path.

    Nodes are nested by module, and coloured by what the last frame did: `by` is "update_rate" (share of pixels
    updated), "macs" or "milliseconds" (share of the largest node's). Dense islands have a red double frame, modules
    outside of the delta graphs a broken one. `depth` is how many levels of modules are open, those below are one box
    each; without it as many as give a picture that can be read. Where there are more than two lines for each node,
    those that follow from others are left out.

    Raises ImportError without pydot, FileNotFoundError without Graphviz's `dot`, and ValueError for another kind of
    file, another measure, or times where there are none.
    """
    path = Path(path)
    pydot, form = check(path, by)
    report = report_of(dm, "draw")
    if by == "milliseconds" and report.totals["milliseconds"] is None:
        raise ValueError(
            "there are no times to colour by: convert with options={'profile': True} and run a frame first."
        )
    graph = picture(pydot, thin(fold(to_networkx(report), depth, MOST)), by)
    if form == "dot":
        path.write_text(graph.to_string(), encoding="utf-8")
        return path
    graph.write(str(path), format=form)
    return path


def check(path: Path, by: str) -> tuple[Any, str]:
    """The module pydot and the file's format; raises what `draw` does where something is missing."""
    try:
        import pydot
    except ImportError as error:
        raise ImportError(NEEDS_PYDOT) from error
    form = path.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise ValueError(f"{path}: the file's suffix is expected to be one of {', '.join('.' + f for f in FORMATS)}")
    if by not in BY:
        raise ValueError(unknown_name("measure to colour by", by, BY))
    if form != "dot" and shutil.which("dot") is None:
        raise FileNotFoundError(NEEDS_DOT)
    return pydot, form


def picture(pydot: Any, graph: nx.DiGraph, by: str) -> Any:
    dot = pydot.Dot(
        "deltafx", graph_type="digraph", rankdir="TB", nodesep=0.25, ranksep=0.32, bgcolor="white", fontname=FONT,
        label=legend(graph, by), labelloc="t", pad=0.3, compound="true",
    )  # fmt: skip
    dot.set_node_defaults(
        shape="box", style="filled,rounded", fontname=FONT, fontsize=11, fontcolor=INK, margin="0.14,0.09",
        color="#9aa3b2", penwidth=1,
    )  # fmt: skip
    dot.set_edge_defaults(color="#7b8494", arrowsize=0.6, fontname=FONT)
    clusters: dict[tuple[str, ...], Any] = {(): dot}
    largest = max((data.get(by) or 0 for _, data in graph.nodes(data=True)), default=0) or 1
    ids = {name: f"n{number}" for number, name in enumerate(graph)}
    for name, data in graph.nodes(data=True):
        cluster_for(pydot, clusters, data["groups"]).add_node(box(pydot, ids[name], data, by, largest))
    for source, target, data in graph.edges(data=True):
        width = 1 if not data["elements"] else min(4.0, max(0.8, math.log10(data["elements"]) - 2.5))
        style = "dashed" if data["handed_over"] else "solid"
        dot.add_edge(pydot.Edge(ids[source], ids[target], penwidth=round(width, 2), style=style))
    return dot


def cluster_for(pydot: Any, clusters: dict[tuple[str, ...], Any], groups: tuple[str, ...]) -> Any:
    """The box of a module, made with those around it when it is first needed."""
    if groups not in clusters:
        outer = cluster_for(pydot, clusters, groups[:-1])
        cluster = pydot.Cluster(
            f"m{len(clusters)}", label=quoted(groups[-1]), labeljust="l", fontname=FONT, fontsize=11, fontcolor=FAINT,
            style="filled,rounded", color="#c9ced8", fillcolor=FILLS[min(len(groups), len(FILLS)) - 1], margin=10,
        )  # fmt: skip
        outer.add_subgraph(cluster)
        clusters[groups] = cluster
    return clusters[groups]


def box(pydot: Any, identity: str, data: dict[str, Any], by: str, largest: float) -> Any:
    share = data.get("update_rate") if by == "update_rate" else None
    if by != "update_rate" and data.get(by) is not None:
        share = data[by] / largest
    known = data["kind"] != "output"
    look: dict[str, Any] = {"shape": SHAPES.get(data["kind"], "box")}
    if data["kind"] == "island":
        look |= {"color": DENSE, "penwidth": 2, "peripheries": 2}
    elif data["kind"] == "eager":
        look |= {"color": DENSE, "penwidth": 1.5, "style": "filled,rounded,dashed"}
    elif data["kind"] == "module":
        look |= {"penwidth": 2, "color": DENSE if data["reason"] else "#6b7484", "style": "filled"}
    return pydot.Node(
        identity, label=label(data), fillcolor=colour_of(share) if known else "white",
        tooltip=quoted(f"{data['path']}: {data['operator']}"), **look,
    )  # fmt: skip


def label(data: dict[str, Any]) -> str:
    figures = []
    if data.get("update_rate") is not None:
        figures.append(f"{data['update_rate']:.1%}")
    if data.get("macs_dense"):
        figures.append(f"{(data['macs'] or 0) / 1e6:.1f} of {data['macs_dense'] / 1e6:.1f} MMACs")
    if data.get("milliseconds") is not None:
        figures.append(f"{data['milliseconds']:.2f} ms")
    lines = [f"<b>{html.escape(shorten(data['label'], 40))}</b>"]
    if data["kind"] not in ("input", "output"):
        lines.append(html.escape(shorten(data["operator"], 44)))
    if figures:
        lines.append(f'<font point-size="9">{" · ".join(figures)}</font>')
    return f"<{'<br/>'.join(lines)}>"


def legend(graph: nx.DiGraph, by: str) -> str:
    """A bar of colours, and what else there is to know."""
    of = "pixels updated in the last frame" if by == "update_rate" else f"{BY[by]}, of the largest node's"
    cells = "".join(
        f'<td bgcolor="{colour_of(share)}" width="46"><font point-size="11">{share:.0%}</font></td>'
        for share, _ in STOPS
    )
    kinds = {data["kind"] for _, data in graph.nodes(data=True)}
    notes = ["line width: numbers that travel"]
    if graph.graph.get("lines_left_out"):
        notes.append(f"{graph.graph['lines_left_out']:,} lines that follow from others are left out")
    if "island" in kinds:
        notes.append("red double frame: runs densely")
    if "eager" in kinds:
        notes.append("broken frame: outside of the delta graphs")
    if "module" in kinds:
        notes.append("heavy frame: a module with all its nodes")
    if any(data["handed_over"] for *_, data in graph.edges(data=True)):
        notes.append("broken line: handed from one graph to the next")
    small = f'<font point-size="10" color="{FAINT}">'
    bar = (
        f'<table border="0" cellborder="0" cellspacing="0" cellpadding="5"><tr>{cells}'
        f'<td bgcolor="{UNKNOWN}" width="70"><font point-size="11">not known</font></td></tr></table>'
    )
    rows = "".join(
        f"<tr><td>{row}</td></tr>" for row in (f"{small}{of}</font>", bar, f"{small}{'; '.join(notes)}</font>")
    )
    return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="3">{rows}</table>>'


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
