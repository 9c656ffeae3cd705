"""Thresholds that a calibration can begin with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deltafx.converted import graphs_of
from deltafx.gate import AUTO, InputGate
from deltafx.graph_module import DeltaGraphModule
from deltafx.node import DeltaNode
from deltafx.sensitivity import sensitivities
from deltafx.trials import Thresholds, Trials, level

LOOKED_AT = 6  # frames for the backward pass
USUAL, AT_ENDS = 0.3, 0.04  # thresholds: of most, and where the input is read or results leave
PAPER = InputGate(16, dilation=7)  # largest channel change of a pixel; DeltaCNN, supplement


@dataclass(frozen=True)
class Start:
    shape: Thresholds
    norm: str
    gate: InputGate | None


def starts(
    trials: Trials, settings: Any, points: Mapping[str, DeltaNode], tell: Callable[[str], None]
) -> Iterator[Start]:
    """By sensitivity; one threshold for all but the ends; and DeltaCNN's rule, if norm and gate are not settled."""
    gate = settings.input_gate or AUTO
    tell("sensitivities")
    yield Start(by_sensitivity(points, measured_sensitivities(trials, tell)), settings.norm, gate)
    yield Start({path: AT_ENDS if node.at_end else USUAL for path, node in points.items()}, settings.norm, gate)
    activations = {path: 1.0 if is_nonlinear(node) else 0.0 for path, node in points.items()}
    if settings.input_gate is None and settings.norm == "rms" and any(activations.values()):
        yield Start(activations, "max", PAPER)


def measured_sensitivities(trials: Trials, tell: Callable[[str], None]) -> dict[str, float]:
    """Of all graphs, each for its own results."""
    dm, step = trials.dm, max(1, len(trials.frames) // LOOKED_AT)
    given: dict[DeltaGraphModule, list[tuple]] = {graph: [] for graph in graphs_of(dm)}

    def note(graph: Any, args: tuple) -> None:
        given[graph].append(pytree.tree_map_only(Tensor, torch.clone, args))

    hooks = [graph.register_forward_pre_hook(note) for graph in given]
    try:
        for frame in trials.frames[::step]:
            dm(*frame)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, float] = {}
    for graph, inputs in given.items():
        found.update(sensitivities(graph, inputs))
        tell("sensitivities")
    return found


def by_sensitivity(points: Mapping[str, DeltaNode], sensitivity: Mapping[str, float]) -> Thresholds:
    """Inverse to the square root of the sensitivities, none far above the others; unknown ones count as average."""
    known = [value for value in sensitivity.values() if value > 0]
    if not known:
        return dict.fromkeys(points, USUAL)
    middle = median(known)
    shape = {path: USUAL * math.sqrt(middle / max(sensitivity.get(path, middle), 1e-12 * middle)) for path in points}
    return level(shape)


def is_nonlinear(node: DeltaNode) -> bool:
    """Whether it ends with an activation, as DeltaCNN's truncation points do."""
    return len(node.stages) > 1 and not node.stages[-1].op.is_linear([True] * len(node.stages[-1].operands))
