"""What was converted, what was not and why, and how much of it the last frames computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from deltafx.converted import Converted, check_converted, settings_of
from deltafx.errors import unknown_name
from deltafx.node import DeltaNode, DenseToDelta
from deltafx.parts import DeltaParts, Eager, Ran
from deltafx.plan import Plan
from deltafx.state import COMPUTED, UPDATED, NodeState

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


@dataclass(frozen=True)
class Report:
    """The report of a converted model: one row a node, and totals. `str()` is a table, `to_dict()` is for JSON."""

    nodes: tuple[NodeReport, ...]
    backend: str
    payload: str
    mode: str
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
        head = ("node", "operator", "kernel", "threshold", "updated", "mean", "MMACs", "dense", "state KiB", "ms")
        rows = [
            (
                node.path,
                shorten(node.operator, 44),
                node.kernel,
                number(node.threshold, "{:.3g}"),
                number(node.update_rate, "{:.1%}"),
                number(node.update_rate_mean, "{:.1%}"),
                number(node.macs, "{:.1f}", 1e-6),
                number(node.macs_dense, "{:.1f}", 1e-6),
                number(node.state_bytes, "{:.0f}", 1 / 1024),
                number(node.milliseconds, "{:.2f}"),
            )
            for node in self.nodes
        ]
        columns = len(head) - (self.totals["milliseconds"] is None)  # times only where there are any
        lines = [table(head[:columns], [row[:columns] for row in rows]), "", *self.summary()]
        dense = [node for node in self.nodes if node.reason is not None]
        lines += [f"dense: {node.path} ({node.operator}): {node.reason}" for node in dense]
        slow = [node for node in self.nodes if node.note is not None]
        lines += [f"reference kernel: {node.path} ({node.operator}): {node.note}" for node in slow]
        return "\n".join(lines)

    def summary(self) -> list[str]:
        totals = self.totals
        parts = f" in {totals['graphs']} graphs" if totals["graphs"] != 1 or totals["eager_modules"] else ""
        outside = f", {totals['eager_modules']} modules outside of them" if totals["eager_modules"] else ""
        lines = [
            f"{totals['delta_nodes']} nodes in delta form, {totals['dense_nodes']} dense{parts}{outside}; backend "
            f"{self.backend}, payload {self.payload}, mode {self.mode}"
        ]
        if totals["macs_dense"] is not None:
            share = totals["macs_delta_form"] / totals["macs_dense"] if totals["macs_dense"] else 1.0
            lines.append(
                f"{totals['macs_dense'] / 1e6:.1f} MMACs a dense frame, {share:.1%} of them in delta form; last frame "
                f"computed {totals['macs'] / 1e6:.1f}, the mean of {self.frames} frames {totals['macs_mean'] / 1e6:.1f}"
            )
            lines.append(
                f"state {totals['state_bytes'] / 2**20:.1f} MiB for {self.streams} streams "
                f"(predicted {totals['predicted_state_bytes'] / 2**20:.1f})"
            )
        return lines


def report(dm: Converted) -> Report:
    """What `dm` consists of and what its last frames computed. Reading it waits for the device."""
    check_converted(dm, "report")
    calls = dm.ran if isinstance(dm, DeltaParts) else [Ran("", dm, 0)]
    plans = [next((plan for plan in ran.graph.runtime.plans if plan.call == ran.number), None) for ran in calls]
    nodes = [row for ran, plan in zip(calls, plans, strict=True) for row in rows_of(ran, plan)]
    if isinstance(dm, DeltaParts):
        nodes += [eager_row(each) for each in dm.eager()]
    known = [plan for plan in plans if plan is not None]
    settings = settings_of(dm)
    return Report(
        nodes=tuple(nodes),
        backend=settings.backend,
        payload=settings.payload,
        mode=settings.mode,
        frames=known[0].counted_frames if known else 0,
        streams=known[0].streams if known else None,
        totals=total(nodes, known, len(calls)),
    )


def rows_of(ran: Ran, plan: Plan | None) -> list[NodeReport]:
    """The rows of one graph. If it is called several times in a frame, names say which call, from the second on."""
    modules = [ran.graph.get_submodule(str(n.target)) for n in ran.graph.graph.find_nodes(op="call_module")]
    rows = [row(module, plan) for module in modules if isinstance(module, (DeltaNode, DenseToDelta))]
    return [replace(each, path=f"{each.path}@{ran.number + 1}") for each in rows] if ran.number else rows


def eager_row(module: Eager) -> NodeReport:
    unknown = {each.name: None for each in fields(NodeReport)}
    known = {
        "path": module.path, "operator": module.kind, "fused_from": (module.path,), "kernel": EAGER,
        "reason": module.reason, "macs": module.macs, "macs_mean": float(module.macs), "macs_dense": module.macs,
    }  # fmt: skip
    return NodeReport(**{**unknown, **known})  # type: ignore[arg-type]


def row(node: DeltaNode | DenseToDelta, plan: Plan | None) -> NodeReport:
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
        path=node.path,
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
    )


def times(state: NodeState | None, plan: Plan | None) -> tuple[float | None, float | None]:
    """Milliseconds of the last frame, and their mean, where they are measured."""
    if plan is None or state is None or not plan.profiles:
        return None, None
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
    profiled = any(plan.profiles for plan in plans)
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
    }


# ---------------------------------------------------------------------------------------------------------------------
# Plain text


def number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns of text: names to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    textual = [not any(line[i][:1].isdigit() for line in rows) for i in range(len(head))]
    textual[0] = True

    def line(cells: tuple[str, ...]) -> str:
        pairs = zip(cells, widths, textual, strict=True)
        return "  ".join(cell.ljust(w) if left else cell.rjust(w) for cell, w, left in pairs).rstrip()

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *map(line, rows)])
