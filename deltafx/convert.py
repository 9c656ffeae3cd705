"""`deltafx.convert`: a model is captured, whole or by parts, and its graphs are compiled (`deltafx.compile`)."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from deltafx.backends import choose_backend
from deltafx.capture import capture
from deltafx.compile import compile_graph, refuse_unknown_names
from deltafx.errors import NoGraph
from deltafx.gate import InputGate
from deltafx.graph_module import DeltaGraphModule
from deltafx.parts import DeltaParts, capture_by_parts
from deltafx.passes import Context
from deltafx.preprocess import Preprocess
from deltafx.runtime import Weights
from deltafx.settings import Settings, resolve


def convert(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    mode: str = "exact",
    threshold: Any = None,
    norm: str | None = None,
    input_gate: InputGate | str | None = None,
    preprocess: Preprocess | None = None,
    payload: str = "value",
    backend: str = "auto",
    keep_dense: Sequence[str] = (),
    refresh_every: int | None = None,
    refresh_within: int | None = None,
    refresh_touched: int | None = None,
    strict: bool = False,
    dump: str | pathlib.Path | None = None,
    options: dict[str, Any] | None = None,
) -> DeltaGraphModule | DeltaParts:
    """Turn a trained CNN into one for video, which computes only what changed since the last frame.

    The result takes the same arguments as `model` and returns the same structure; element n of the batch is stream n
    (one camera), not a time step. `model` is not changed; weights that no pass had to fold share its memory. They are
    read when the first frame of a size comes: one that is written to later is not seen, unless `load_state_dict` does
    it. The idea is DeltaCNN's (Parger et al., CVPR 2022).

    Args:
        model: in evaluation mode. Where `torch.fx` cannot trace it, its parts are converted, and the result is a
            `DeltaParts`; a GraphModule is taken as it is.
        example_inputs: a tensor, or a tuple of arguments. With them every pass is verified against the model.
        mode: "exact" (threshold 0, no gate), "balanced" or "fast"; the arguments below win over it.
        threshold: how much change of a pixel is withheld: a number, a share of the node's root mean square as measured
            on the first full frame; `deltafx.absolute(x)` in the tensor's units; a mapping from node names to those; or
            a `Calibration` (with its gate, norm and refreshes), its file, or the name of one that comes with the zoo.
        norm: "rms" (default) or "max", the norm of a pixel's change over its channels.
        input_gate: which pixels of a frame count as changed; see `InputGate`. "auto": one that follows the noise and
            lets flicker pass by.
        preprocess: the first input comes as uint8 frames, which are normalised where they changed; see `Preprocess`.
        payload: "value", or "difference" (the paper's form, which drifts by rounding).
        backend: "auto", "reference", "cpu" or "cuda". "auto" is that of the device of the weights (of the example
            inputs, if there are no weights): move the model to its GPU before it is converted.
        keep_dense: module paths or operator names that stay dense without comment.
        refresh_every: compute every n-th frame in full.
        refresh_within: a background refresh: strip by strip, every pixel of every node is computed anew twice in so
            many frames, whatever thresholds withhold, so that a picture that stands is exact after as many. It adds
            2 / refresh_within of the dense network's work, and that for the borders of strips.
        refresh_touched: every so many frames, what passed the input's gate since the last time is computed anew at
            every node, whatever thresholds withhold; where little moves it costs much less than a frame in full. Slow
            changes that stay under the gate are for `refresh_every`, which may be given with it. Modes "balanced" and
            "fast" do it every 30 frames, with payload "value" and where no refresh is given.
        strict: refuse a model that keeps dense islands not named in `keep_dense`.
        dump: a folder for the graph after each pass; of a model in parts, with a folder for each of them.
        options: see `deltafx.settings.Options`.

    Raises:
        ConvertError: the model cannot be converted, or an argument is wrong; the message says what to do.
    """
    examples = None if example_inputs is None else as_arguments(example_inputs)
    settings = resolve(
        mode=mode, threshold=threshold, norm=norm, input_gate=input_gate, preprocess=preprocess, payload=payload,
        backend=choose_backend(backend, devices_of(model, examples)), keep_dense=keep_dense,
        refresh_every=refresh_every, refresh_within=refresh_within, refresh_touched=refresh_touched, strict=strict,
        dump=dump, options=options,
    )  # fmt: skip
    try:
        return compile_whole(model, settings, examples)
    except NoGraph as reason:
        return capture_by_parts(model, settings, reason, examples)


def compile_whole(model: nn.Module, settings: Settings, examples: tuple | None) -> DeltaGraphModule:
    """One graph; raises NoGraph."""
    graph_module, context = capture(model), Context(settings)
    if examples is None:
        result = compile_graph(graph_module, context)
    else:
        if settings.preprocess is not None:
            examples = settings.preprocess.arguments(examples, Weights.of(model).dtype or torch.float32)
        result = compile_graph(graph_module, context, model, examples)
    refuse_unknown_names(context)
    return result


def as_arguments(example_inputs: Any) -> tuple:
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)


def devices_of(model: nn.Module, examples: tuple | None) -> set[torch.device]:
    """Where the weights are; if there are none, where the example inputs are."""
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    if not tensors:
        tensors = [leaf for leaf in pytree.tree_leaves(examples) if isinstance(leaf, torch.Tensor)]
    return {tensor.device for tensor in tensors}
