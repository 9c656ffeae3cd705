"""Totals by module: what a whole block or stage of the network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deltafx.views.nesting import groups_of

if TYPE_CHECKING:
    from deltafx.report import NodeReport, Report

SUMS = ("macs", "macs_mean", "macs_dense", "state_bytes", "milliseconds", "milliseconds_mean")


@dataclass(frozen=True)
class Subtree:
    """A module and everything below it. Sums are None where nothing is known of any of its nodes."""

    path: str  # "" is the whole network
    name: str  # the last part of the path
    depth: int
    nodes: int
    dense: int  # of them, those that are in no delta form
    macs: int | None
    macs_mean: float | None
    macs_dense: int | None
    state_bytes: int | None
    milliseconds: float | None
    milliseconds_mean: float | None


def subtrees(report: Report, depth: int | None = None) -> tuple[Subtree, ...]:
    """Every module that holds several nodes, down to `depth` levels, each after the one that it is in.

    A module whose only content is another one is named together with it.
    """
    groups = groups_of([node.path for node in report.nodes])
    members: dict[tuple[str, ...], list[NodeReport]] = {(): list(report.nodes)}
    for node in report.nodes:
        above = groups[node.path]
        for level in range(1, len(above) + 1):
            if depth is None or level <= depth:
                members.setdefault(above[:level], []).append(node)
    first = {place: index for index, place in enumerate(members)}
    order = sorted(members, key=lambda place: [first[place[:level]] for level in range(len(place) + 1)])
    return tuple(subtree(place, members[place]) for place in order)


def subtree(place: tuple[str, ...], nodes: Sequence[NodeReport]) -> Subtree:
    sums: dict[str, Any] = {name: add(nodes, name) for name in SUMS}
    dense = sum(node.reason is not None for node in nodes)
    return Subtree(".".join(place), place[-1] if place else "", len(place), len(nodes), dense, **sums)


def add(nodes: Sequence[NodeReport], name: str) -> Any:
    known = [getattr(node, name) for node in nodes if getattr(node, name) is not None]
    return sum(known) if known else None
