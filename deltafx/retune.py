"""A converted network with other thresholds and another gate than it was converted with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from deltafx.converted import Converted, dense_arguments, graphs_of, reset, settings_of, silence
from deltafx.gate import InputGate
from deltafx.node import DeltaNode, DenseToDelta
from deltafx.parts import DeltaParts
from deltafx.settings import NO_THRESHOLD
from deltafx.touched import TouchedRefresh
from deltafx.truncation import Threshold, Truncation


def dense(dm: Converted, frame: tuple) -> Any:
    """What the dense network makes of what `dm` is called with."""
    copies = pytree.tree_map_only(Tensor, torch.clone, frame)  # it may write to its input
    with torch.no_grad():
        if isinstance(dm, DeltaParts):
            return dm.model(*dense_arguments(dm, copies))
        return fx.Interpreter(dm).run(*copies)


def truncation_points(dm: Converted) -> dict[str, DeltaNode]:
    """By path. Those of a model in parts are there when a frame has come."""
    nodes = [node for graph in graphs_of(dm) for node in graph.modules() if isinstance(node, DeltaNode)]
    return {node.path: node for node in nodes if node.truncation is not None}


def retune(dm: Converted, thresholds: Mapping[str, Threshold], norm: str, gate: InputGate | None) -> None:
    """Give the truncation points other thresholds, 0 where none is named; the next frame is the first."""
    points, graphs = truncation_points(dm), graphs_of(dm)
    first = dm.ran[0].graph if isinstance(dm, DeltaParts) and dm.ran else next(iter(graphs), None)
    # This graph alone sees the camera's pixels.
    entries = [m for m in first.modules() if isinstance(m, DenseToDelta)] if first is not None else []
    before = form(points, entries)
    for path, node in points.items():
        node.truncation = Truncation(thresholds.get(path, NO_THRESHOLD), norm)
    for entry in entries:
        entry.gate = gate
    same = form(points, entries) == before
    for graph in graphs:
        # A plan takes as long as many frames. On the host its kernels read thresholds when they run.
        if not same or any(plan.stale.device.type != "cpu" for plan in graph.runtime.plans):
            graph.runtime.start_over()
        graph.runtime.of_gates.clear()
    reset(dm)
    silence(dm)


def refresh(dm: Converted, every: int | None, touched: int | None) -> None:
    """Compute every so many frames in full, and what was touched every so many, from the next reset on.

    Whether what was touched is computed anew at all stays as it is.
    """
    for graph in graphs_of(dm):
        settings = graph.runtime.settings
        rounds = settings.refresh_touched and (touched or settings.refresh_touched)
        graph.runtime.settings = replace(settings, refresh_every=every, refresh_touched=rounds)
        for plan in graph.runtime.plans:
            if isinstance(plan.background, TouchedRefresh) and rounds is not None:
                plan.background.every = rounds


def form(points: Mapping[str, DeltaNode], entries: list[DenseToDelta]) -> list[Any]:
    """What a plan depends on: which nodes withhold something, and what kind of gate there is."""
    withholds = [node.truncation is not None and node.truncation.threshold.value > 0 for node in points.values()]
    return [*withholds, *(entry.gate and (entry.gate.adapts,) for entry in entries)]


@contextlib.contextmanager
def restored(dm: Converted) -> Iterator[None]:
    """Within the context thresholds, gate and refreshes may be others; after it they are as `dm` was converted."""
    settings = settings_of(dm)
    try:
        yield
    finally:
        refresh(dm, settings.refresh_every, settings.refresh_touched)
        points = truncation_points(dm).items()
        thresholds = {path: settings.threshold_of(path, *node.fused_from, at_end=node.at_end) for path, node in points}
        retune(dm, thresholds, settings.norm, settings.input_gate)
