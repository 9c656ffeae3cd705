"""What `convert` returns, whatever it is made of: one delta graph, or a model with several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deltafx.graph_module import DeltaGraphModule
from deltafx.history import History
from deltafx.parts import DeltaParts
from deltafx.runtime import Weights

Converted = DeltaGraphModule | DeltaParts


def check_converted(module: Any, what: str) -> None:
    if not isinstance(module, (DeltaGraphModule, DeltaParts)):
        raise TypeError(f"{what} takes what deltafx.convert returned; got {type(module).__name__}.")


def reset(dm: Converted, streams: Sequence[int] | None = None) -> None:
    """Compute the next frame in full, for all streams or for those given.

    After a reset of all streams, the number of streams may change, and the report's means start again.
    """
    check_converted(dm, "reset")
    chosen = None if streams is None else [int(stream) for stream in streams]
    if isinstance(dm, DeltaParts):
        dm.reset(chosen)
    else:
        dm.runtime.reset(chosen)


def forget_counts(dm: Converted) -> None:
    """The report's means start again with the next frame, as after a reset; what is remembered of the frames stays."""
    for graph in graphs_of(dm):
        for plan in graph.runtime.plans:
            plan.forget_counts()
    if isinstance(dm, DeltaParts) and dm.times is not None:
        dm.times.forget()


def graphs_of(dm: Converted) -> list[DeltaGraphModule]:
    """Its delta graphs. Those of a model in parts are made when frames come."""
    return dm.graphs if isinstance(dm, DeltaParts) else [dm]


def history(dm: Converted) -> dict[str, History]:
    """What each pass of the compiler did, and which node stands for which layer of the dense graph.

    By the path of the module that a graph stands for: "" where the model is one graph. A model in parts has those of
    the graphs that ran in the last frame.
    """
    check_converted(dm, "history")
    graphs = dm.parts if isinstance(dm, DeltaParts) else {"": dm}
    return {path: graph.history for path, graph in graphs.items() if graph.history is not None}


def silence(dm: Converted) -> None:
    """No warning that noise updates most of the pixels."""
    if isinstance(dm, DeltaParts):
        dm.silent = True  # for graphs that are still to be made
    for graph in graphs_of(dm):
        graph.runtime.warned_of_noise = True


def settings_of(dm: Converted) -> Any:
    return dm.settings if isinstance(dm, DeltaParts) else dm.runtime.settings


def dense_arguments(dm: Converted, args: tuple) -> tuple:
    """What the dense model is called with where the converted one is called with `args`."""
    preprocess = settings_of(dm).preprocess
    return args if preprocess is None else preprocess.arguments(args, Weights.of(dm).dtype or torch.float32)


def input_mask(dm: Converted) -> Tensor:
    """Which pixels of the (first graph's) input were updated in the last frame: `[N, H, W]`. The next overwrites it."""
    graph = dm.ran[0].graph if isinstance(dm, DeltaParts) else dm
    return graph.runtime.plans[0].inputs[0].leaves[0].mask[:, 0]
