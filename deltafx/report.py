"""What was converted, what was not and why, and how much of it the last frames computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

from deltafx.converted import Converted, check_converted, settings_of
from deltafx.eager_times import EagerTimes
from deltafx.edges import edges_of, handed_from, senders
from deltafx.errors import unknown_name
from deltafx.node import DeltaNode, DenseToDelta
from deltafx.parts import DeltaParts, Eager, Ran
from deltafx.plan import Plan
from deltafx.state import COMPUTED, UPDATED, NodeState
from deltafx.views.csv_text import csv_text
from deltafx.views.hints import Hint, hints
from deltafx.views.rich_table import rich_report, show
from deltafx.views.subtrees import Subtree, subtrees
from deltafx.views.text import report_text

EAGER = "eager"  # the kernel of a module that is in no delta graph


@dataclass(frozen=True)
class NodeReport:
    """One node. Rates are shares of its pixels; what needs a frame is None before the first."""

    path: str
    operator: str
    fused_from: tuple[str, ...]
    kernel: str  # its name, or "dense", or "eager" for a module outside of the delta graphs
    reason: str | None  # why it is dense
    note: str | None  # why a compiled backend leaves it to the reference kernel
    threshold: float | None  # in units of the tensor; None where nothing is withheld, or while it is not measured
    update_rate: float | None  # of the last frame
    update_rate_mean: float | None  # since the last reset, its full frame included
    macs: int | None  # computed in the last frame
    macs_mean: float | None
    macs_dense: int | None
    state_bytes: int | None
    milliseconds: float | None  # of the last frame, with options={"profile": True}
    milliseconds_mean: float | None
    inputs: tuple[str, ...]  # the nodes that it reads; those of another graph once a tensor came from it
    shape: tuple[int, ...] | None  # of its output, or of the first of them
    is_output: bool  # the graph returns what it sends


@dataclass(frozen=True)
class Report:
    """The report of a converted model: one row a node, and totals. `str()` is a table, `to_dict()` is for JSON."""

    nodes: tuple[NodeReport, ...]
    backend: str
    payload: str
    mode: str  # or "calibrated"
    frames: int  # since the last reset
    streams: int | None
    totals: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __getitem__(self, path: str) -> NodeReport:
        for node in self.nodes:
            if path == node.path:
                return node
        raise KeyError(unknown_name("node", path, [node.path for node in self.nodes]))

    def __str__(self) -> str:
        return report_text(self)

    def __rich__(self) -> Any:
        return rich_report(self)

    def show(self) -> None:
        """Print it: as a coloured table in a terminal (with `rich`), as plain text elsewhere."""
        show(self)

    def subtrees(self, depth: int | None = None) -> tuple[Subtree, ...]:
        """Totals of every module and what is below it, the whole network first; see `deltafx.views.subtrees`."""
        return subtrees(self, depth)

    def hints(self) -> tuple[Hint, ...]:
        """What to do next, what saves most first; see `deltafx.views.hints`."""
        return hints(self)

    def to_csv(self, path: str | PathLike[str] | None = None) -> str:
        """The nodes as comma-separated values with a head, which are also written to `path` if it is given.

        Lists are joined by spaces (shapes by x), and what is not known is empty.
        """
        text = csv_text(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text


def report(dm: Converted) -> Report:
    """What `dm` consists of and what its last frames computed. Reading it waits for the device."""
    check_converted(dm, "report")
    calls = dm.ran if isinstance(dm, DeltaParts) else [Ran("", dm, 0)]
    plans = [next((plan for plan in ran.graph.runtime.plans if plan.call == ran.number), None) for ran in calls]
    nodes: list[NodeReport] = []
    known_masks: dict[int, str] = {}
    for ran, plan in zip(calls, plans, strict=True):
        nodes += rows_of(ran, plan, known_masks)
    if isinstance(dm, DeltaParts):
        nodes += [eager_row(each, dm.times) for each in dm.eager()]
    known = [plan for plan in plans if plan is not None]
    settings = settings_of(dm)
    return Report(
        nodes=tuple(nodes),
        backend=settings.backend,
        payload=settings.payload,
        mode=settings.deciding,
        frames=known[0].counted_frames if known else 0,
        streams=known[0].streams if known else None,
        totals=total(nodes, known, len(calls)),
    )


def rows_of(ran: Ran, plan: Plan | None, known_masks: dict[int, str]) -> list[NodeReport]:
    """The rows of one graph. If it is called several times in a frame, names say which call, from the second on.

    `known_masks` has the senders of the graphs before, and gets those of this one.
    """

    def name(path: str) -> str:
        return f"{path}@{ran.number + 1}" if ran.number else path

    edges, rows = edges_of(ran.graph), []
    for module in edges.modules:
        state = plan.nodes.get(module.path) if plan else None
        inputs = tuple(map(name, edges.inputs[module.path]))
        if isinstance(module, DenseToDelta) and state is not None:
            inputs = handed_from(state, known_masks)
        rows.append(row(module, plan, name(module.path), inputs, module.path in edges.returned))
    if plan is not None:
        known_masks.update(senders(plan, name))
    return rows


def eager_row(module: Eager, times: EagerTimes | None) -> NodeReport:
    last, mean = times.of(module.path) if times else (None, None)
    unknown = {each.name: None for each in fields(NodeReport)}
    known = {
        "path": module.path, "operator": module.kind, "fused_from": (module.path,), "kernel": EAGER,
        "reason": module.reason, "macs": module.macs, "macs_mean": float(module.macs), "macs_dense": module.macs,
        "inputs": (), "is_output": False, "milliseconds": last, "milliseconds_mean": mean,
    }  # fmt: skip
    return NodeReport(**{**unknown, **known})  # type: ignore[arg-type]


def row(
    node: DeltaNode | DenseToDelta, plan: Plan | None, path: str, inputs: tuple[str, ...], is_output: bool
) -> NodeReport:
    state = plan.nodes.get(node.path) if plan else None
    operator = node.operator if isinstance(node, DeltaNode) else "dense_to_delta"
    reason = why_dense(node, state)
    computed, computed_mean = mean_share(state, COMPUTED)
    updated, updated_mean = mean_share(state, UPDATED)
    macs_dense = state.macs if state else None
    kernel = state.kernel if state else node.backend
    last_ms, mean_ms = times(state, plan)
    constant = plan is not None and node.path in plan.constants
    return NodeReport(
        path=path,
        operator=operator,
        fused_from=node.fused_from if isinstance(node, DeltaNode) else (node.path,),
        kernel="constant" if constant else "dense" if reason else kernel.name,
        reason=reason,
        note=None if reason else getattr(kernel, "note", None),
        threshold=threshold_of(node, state, plan),
        update_rate=updated,
        update_rate_mean=updated_mean,
        macs=round(macs_dense * computed) if macs_dense is not None and computed is not None else None,
        macs_mean=macs_dense * computed_mean if macs_dense is not None and computed_mean is not None else None,
        macs_dense=macs_dense,
        state_bytes=sum(t.numel() * t.element_size() for t in state.tensors()) if state else None,
        milliseconds=last_ms,
        milliseconds_mean=mean_ms,
        inputs=inputs,
        shape=tuple(state.leaves[0].shape) if state and state.leaves else None,
        is_output=is_output,
    )


def times(state: NodeState | None, plan: Plan | None) -> tuple[float | None, float | None]:
    """Milliseconds of the last frame, and their mean, where they are measured."""
    if plan is None or state is None or plan.timer is None:
        return None, None
    plan.timer.settle()
    return 1000 * state.seconds, 1000 * state.seconds_sum / plan.counted_frames if plan.counted_frames else None


def why_dense(node: DeltaNode | DenseToDelta, state: NodeState | None) -> str | None:
    if isinstance(node, DeltaNode) and node.island is not None:
        return node.island.reason
    return state.reason if state else None


def mean_share(state: NodeState | None, counted: int) -> tuple[float | None, float | None]:
    """The last and the mean share of a node's pixels, over its outputs. An island computes all of them."""
    shares = [leaf.shares(counted) for leaf in state.leaves] if state else []
    known = [share for share in shares if share is not None]
    if state is None or not known:
        return None, None
    if counted == COMPUTED and state.dense:
        return 1.0, 1.0
    last, mean = (sum(column) / len(known) for column in zip(*known, strict=True))
    return last, mean


def threshold_of(node: DeltaNode | DenseToDelta, state: NodeState | None, plan: Plan | None) -> float | None:
    if isinstance(node, DenseToDelta):
        if node.gate is None or (state is not None and all(len(leaf.shape) != 4 for leaf in state.leaves)):
            return None
        level = node.gate.grey_level or (plan.scales.get(f"{node.path}:grey_level") if plan else None)
        return node.gate.threshold * level if level else None
    if node.truncation is None or node.truncation.threshold.value == 0:
        return None
    if node.truncation.threshold.absolute:
        return node.truncation.threshold.value
    scale = plan.scales.get(node.path) if plan else None
    return node.truncation.threshold.value * scale if scale else None


def total(nodes: Sequence[NodeReport], plans: Sequence[Plan], graphs: int) -> dict[str, Any]:
    def add(name: str, rows: Sequence[NodeReport] = nodes) -> Any:
        return sum(getattr(node, name) or 0 for node in rows) if plans else None

    eager = [node for node in nodes if node.kernel == EAGER]
    delta = [node for node in nodes if node.reason is None]
    profiled = any(plan.timer is not None for plan in plans)
    return {
        "graphs": graphs,
        "nodes": len(nodes) - len(eager),
        "delta_nodes": len(delta),
        "dense_nodes": len(nodes) - len(delta) - len(eager),
        "eager_modules": len(eager),
        "macs": add("macs"),
        "macs_mean": add("macs_mean"),
        "macs_dense": add("macs_dense"),
        "macs_delta_form": add("macs_dense", delta),
        "state_bytes": sum(plan.bytes for plan in plans) if plans else None,
        "predicted_state_bytes": sum(plan.predicted_bytes for plan in plans) if plans else None,
        "milliseconds": add("milliseconds") if profiled else None,
        "milliseconds_mean": add("milliseconds_mean") if profiled else None,
    }
