"""The graph with modules folded into one node each, so that a picture of a large network can be read."""

from __future__ import annotations

from typing import Any

import networkx as nx

from deltafx.views.subtrees import SUMS

RATES = ("update_rate", "update_rate_mean")


def fold(graph: nx.DiGraph, depth: int | None, most: int) -> nx.DiGraph:
    """Modules that are more than `depth` levels down, as one node each, of the kind "module".

    Without `depth`, as many levels stay open as give `most` nodes, and none where that is not to be had. Of a module's
    node, work and state are the sums over its nodes, and update rates the means; `folded` says how many it holds.
    """
    if depth is None:
        levels = max((len(data["groups"]) for _, data in graph.nodes(data=True)), default=0)
        counts = {level: len(set(places(graph, level).values())) for level in range(levels, -1, -1)}
        depth = next((level for level, count in counts.items() if count <= most), 0)
    place = places(graph, depth)
    members: dict[str, list[dict[str, Any]]] = {}
    for name, data in graph.nodes(data=True):
        members.setdefault(place[name], []).append(data)
    result = nx.DiGraph()
    result.graph.update(graph.graph, depth=depth)
    for name, inside in members.items():
        result.add_node(name, **(inside[0] if name in graph and place[name] == name else module(name, inside)))
    for source, target, data in graph.edges(data=True):
        if place[source] != place[target]:
            result.add_edge(place[source], place[target], **data)
    return result


def places(graph: nx.DiGraph, depth: int) -> dict[str, str]:
    """Which node of the folded graph each node is in: itself, or the module that is closed."""

    def place(name: str, groups: tuple[str, ...]) -> str:
        return name if len(groups) <= depth else ".".join(groups[: depth + 1]) + ".*"

    return {name: place(name, data["groups"]) for name, data in graph.nodes(data=True)}


def module(name: str, inside: list[dict[str, Any]]) -> dict[str, Any]:
    depth = len(name.removesuffix(".*").split("."))
    groups: tuple[str, ...] = inside[0]["groups"]
    above = 0
    while len(".".join(groups[: above + 1]).split(".")) < depth:
        above += 1
    return {
        "path": name,
        "kind": "module",
        "label": groups[above],
        "groups": groups[:above],
        "operator": f"{len(inside)} nodes",
        "folded": len(inside),
        "reason": next((data["reason"] for data in inside if data.get("reason")), None),
        **{key: over(inside, key, sum) for key in SUMS},
        **{key: over(inside, key, lambda known: sum(known) / len(known)) for key in RATES},
    }


def over(inside: list[dict[str, Any]], key: str, join: Any) -> Any:
    known = [data[key] for data in inside if data.get(key) is not None]
    return join(known) if known else None
