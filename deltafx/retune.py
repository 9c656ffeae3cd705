"""A converted network with other thresholds and another gate than it was converted with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from deltafx.converted import Converted, dense_arguments, graphs_of, reset, settings_of, silence
from deltafx.gate import InputGate
from deltafx.node import DeltaNode, DenseToDelta
from deltafx.parts import DeltaParts
from deltafx.settings import NO_THRESHOLD
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
    for path, node in truncation_points(dm).items():
        node.truncation = Truncation(thresholds.get(path, NO_THRESHOLD), norm)
    graphs = graphs_of(dm)
    first = dm.ran[0].graph if isinstance(dm, DeltaParts) and dm.ran else next(iter(graphs), None)
    for entry in first.modules() if first is not None else ():  # this graph alone sees the camera's pixels
        if isinstance(entry, DenseToDelta):
            entry.gate = gate
    for graph in graphs:
        graph.runtime.start_over()  # kernels are bound to thresholds
        graph.runtime.of_gates.clear()
    reset(dm)
    silence(dm)


@contextlib.contextmanager
def restored(dm: Converted) -> Iterator[None]:
    """Within the context, thresholds and gate may be other ones; after it they are what `dm` was converted with."""
    try:
        yield
    finally:
        settings = settings_of(dm)
        points = truncation_points(dm).items()
        thresholds = {path: settings.threshold_of(path, *node.fused_from, at_end=node.at_end) for path, node in points}
        retune(dm, thresholds, settings.norm, settings.input_gate)
