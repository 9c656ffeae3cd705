"""What to do next, read off a report: where the work goes and where the changes spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltafx.views.nesting import ENTRY

if TYPE_CHECKING:
    from deltafx.report import NodeReport, Report

MOST = 3  # hints of one kind
COSTLY = 0.05  # share of the work of a frame below which a node is not worth a word
JUMP, STEEP = 0.1, 2.0  # an update rate jumps where it is this much higher, and this many times as high, as its inputs'
NOISY = 0.5  # share of the input's pixels


@dataclass(frozen=True)
class Hint:
    """One thing to do: about which node (None: all), of what kind, what it concerns (0..1), and the sentence."""

    node: str | None
    kind: str  # "measure", "noise", "island", "kernel", "outside" or "jump"
    share: float
    text: str


def hints(report: Report) -> tuple[Hint, ...]:
    """What to do about a report, by kind, and of each kind what concerns most of a frame's work first.

    Work is time where the report has times, and multiply-accumulates elsewhere; of both it is the mean over the frames.
    """
    if not report.frames:
        return (Hint(None, "measure", 1.0, "Nothing has run yet: show it a few frames, and ask again."),)
    work = {node.path: work_of(report, node) for node in report.nodes}
    total = sum(work.values()) or 1.0
    shares = {path: value / total for path, value in work.items()}
    unit = "time" if timed(report) else "multiply-accumulates"
    found = [
        *noise(report),
        *islands(report, shares, unit),
        *kernels(report, shares, unit),
        *outside(report, shares, unit),
        *jumps(report),
    ]
    if not found:
        found.append(Hint(None, "measure", 0.0, "Nothing stands out."))
    return tuple(found)


def timed(report: Report) -> bool:
    """Whether the times of all that multiplies are known."""
    return all(node.milliseconds_mean is not None for node in report.nodes if node.macs_mean)


def work_of(report: Report, node: NodeReport) -> float:
    return (node.milliseconds_mean if timed(report) else node.macs_mean) or 0.0


def noise(report: Report) -> list[Hint]:
    rates = [node.update_rate_mean or 0.0 for node in report.nodes if node.path.startswith(ENTRY)]
    rate = rates[0] if rates else 0.0
    if report.frames < 3 or rate < NOISY:
        return []
    what = (
        "Try mode='balanced', or calibrate thresholds" if report.mode == "exact" else "Raise the input gate's threshold"
    )
    text = (
        f"{rate:.0%} of the input's pixels are updated in a frame, by noise or because the camera moves. {what}; a "
        f"moving camera saves nothing."
    )
    return [Hint(None, "noise", rate, text)]


def islands(report: Report, shares: dict[str, float], unit: str) -> list[Hint]:
    nodes = [node for node in report.nodes if node.reason is not None and node.kernel == "dense"]
    return [
        Hint(
            node.path,
            "island",
            shares[node.path],
            f"{node.path} ({node.operator}) runs densely and takes {shares[node.path]:.0%} of the {unit}: "
            f"{node.reason}. Write it with operators that `deltafx doctor --operators` lists, or add one (docs: adding "
            f"an operator).",
        )
        for node in costly(nodes, shares)
    ]


def kernels(report: Report, shares: dict[str, float], unit: str) -> list[Hint]:
    nodes = [node for node in report.nodes if node.note is not None]
    return [
        Hint(
            node.path,
            "kernel",
            shares[node.path],
            f"{node.path} ({node.operator}) is left to the reference kernel and takes {shares[node.path]:.0%} of the "
            f"{unit}: {node.note}. A compiled kernel would help (docs: adding a kernel).",
        )
        for node in costly(nodes, shares)
    ]


def outside(report: Report, shares: dict[str, float], unit: str) -> list[Hint]:
    nodes = [node for node in report.nodes if node.kernel == "eager"]
    share = sum(shares[node.path] for node in nodes)
    if share < COSTLY:
        return []
    (first, *_) = sorted(nodes, key=lambda node: -shares[node.path])
    text = (
        f"{len(nodes)} modules are outside of the delta graphs and take {share:.0%} of the {unit}, most of all "
        f"{first.path} ({first.operator}): {first.reason}."
    )
    return [Hint(first.path, "outside", share, text)]


def costly(nodes: list[NodeReport], shares: dict[str, float]) -> list[NodeReport]:
    worth = [node for node in nodes if shares[node.path] >= COSTLY]
    return sorted(worth, key=lambda node: -shares[node.path])[:MOST]


def jumps(report: Report) -> list[Hint]:
    """Nodes after which much more is updated than before."""
    rates = {node.path: node.update_rate_mean for node in report.nodes}
    found = []
    for node in report.nodes:
        before = [rate for rate in (rates.get(path) for path in node.inputs) if rate is not None]
        rate = node.update_rate_mean
        if rate is None or not before or rate < JUMP + max(before) or rate < STEEP * max(before):
            continue
        cure = (
            f"raise its threshold ({node.threshold:.3g} now)"
            if node.threshold
            else f"give it a threshold: threshold={{{node.path!r}: 0.1, ...}}"
        )
        text = (
            f"The update rate jumps from {max(before):.0%} to {rate:.0%} at {node.path} ({node.operator}), and what "
            f"follows computes it all: {cure}, or look for a smaller window before it."
        )
        found.append(Hint(node.path, "jump", rate - max(before), text))
    return sorted(found, key=lambda hint: -hint.share)[:MOST]
