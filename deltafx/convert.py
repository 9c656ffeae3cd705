"""`deltafx.convert`: the whole compiler on one page."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from deltafx.backends import choose_backend
from deltafx.capture import capture
from deltafx.errors import ConvertError, unknown_name
from deltafx.gate import InputGate
from deltafx.graph_module import DeltaGraphModule, put_together, record
from deltafx.measure import relative_error, tensors_of
from deltafx.node import DeltaNode, DenseToDelta
from deltafx.passes import PASSES, Context
from deltafx.passes.context import constant_of, leaf_module, place_constant, place_module
from deltafx.preprocess import Preprocess
from deltafx.runtime import Runtime, Weights
from deltafx.settings import Settings, resolve

# A pass may change rounding (folding does), not results.
VERIFY_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


def convert(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    mode: str = "exact",
    threshold: Any = None,
    norm: str = "rms",
    input_gate: InputGate | None = None,
    preprocess: Preprocess | None = None,
    payload: str = "value",
    backend: str = "auto",
    keep_dense: Sequence[str] = (),
    refresh_every: int | None = None,
    strict: bool = False,
    dump: str | pathlib.Path | None = None,
    options: dict[str, Any] | None = None,
) -> DeltaGraphModule:
    """Turn a trained CNN into one for video, which computes only what changed since the last frame.

    The result takes the same arguments as `model` and returns the same structure; element n of the batch is stream n
    (one camera), not a time step. `model` is not changed; weights that no pass had to fold share its memory. The idea
    is DeltaCNN's (Parger et al., CVPR 2022).

    Args:
        model: in evaluation mode. Its forward must be traceable by `torch.fx`; a GraphModule is taken as it is.
        example_inputs: a tensor, or a tuple of arguments. With them every pass is verified against the model.
        mode: "exact" (threshold 0, no gate), "balanced" or "fast"; the arguments below win over it.
        threshold: how much change of a pixel is withheld: a number, a share of the node's root mean square as measured
            on the first full frame; `deltafx.absolute(x)` in the tensor's units; or a mapping from node names to those.
        norm: "rms" or "max", the norm of a pixel's change over its channels.
        input_gate: which pixels of a frame count as changed; see `InputGate`.
        preprocess: the first input comes as uint8 frames, which are normalised where they changed; see `Preprocess`.
        payload: "value", or "difference" (the paper's form, which drifts by rounding).
        backend: "auto", "reference", "cpu" or "cuda".
        keep_dense: module paths or operator names that stay dense without comment.
        refresh_every: compute every n-th frame in full.
        strict: refuse a model that keeps dense islands not named in `keep_dense`.
        dump: a folder for the graph after each pass.
        options: see `deltafx.settings.Options`.

    Raises:
        ConvertError: the model cannot be converted, or an argument is wrong; the message says what to do.
    """
    settings = resolve(
        mode=mode, threshold=threshold, norm=norm, input_gate=input_gate, preprocess=preprocess, payload=payload,
        backend=choose_backend(backend), keep_dense=keep_dense, refresh_every=refresh_every, strict=strict, dump=dump,
        options=options,
    )  # fmt: skip
    graph_module = capture(model)
    context = Context(settings)
    examples = None if example_inputs is None else as_arguments(example_inputs)
    dtype = Weights.of(model).dtype or torch.float32
    if examples is not None and preprocess is not None:
        examples = preprocess.arguments(examples, dtype)
    expected = None if examples is None else dense_output(model, examples)
    write_graph(graph_module, settings.dump, 0, "capture")
    for number, rewrite in enumerate(PASSES, start=1):
        rewrite(graph_module, context)
        graph_module.graph.lint()
        graph_module.recompile()
        write_graph(graph_module, settings.dump, number, rewrite.__name__)
        if examples is not None:
            verify_pass(rewrite.__name__, expected, dense_output(graph_module, examples))
    if preprocess is not None:
        fold_preprocess(graph_module, preprocess, dtype)
    refuse_unknown_paths(settings, context, graph_module)
    if settings.strict:
        refuse_islands(graph_module)
    return assemble(graph_module, settings)


def assemble(graph_module: fx.GraphModule, settings: Settings) -> DeltaGraphModule:
    """Leave behind what the passes replaced, and give nodes and modules their public names."""
    runtime = Runtime(settings)
    root = put_together({}, {}, [], runtime, {})  # no module takes a name that the result has another use for
    places: dict[Any, str] = {}  # of constants
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        if node.op in ("placeholder", "output"):
            copies[node] = graph.node_copy(node, copies.__getitem__)
            continue
        target = node.target
        module = leaf_module(graph_module, node)
        if module is not None:
            target = place_module(root, node.meta["path"], module)
        elif node.op == "get_attr":
            constant = constant_of(graph_module, node)
            if constant is not None and target not in places:
                places[target] = place_constant(root, str(target), constant)
            target = places[target]
        args = fx.node.map_arg((node.args, node.kwargs), copies.__getitem__)
        copies[node] = graph.create_node(node.op, target, *args, name=re.sub(r"\W", "_", node.meta["path"]))
        copies[node].meta = dict(node.meta)
    modules = {name: module for name, module in root.named_children() if module is not runtime}
    return put_together(modules, dict(root._parameters), record(graph), runtime, {})


# ---------------------------------------------------------------------------------------------------------------------
# What the driver does around the passes


def as_arguments(example_inputs: Any) -> tuple:
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)


def dense_output(module: nn.Module, examples: tuple) -> list[torch.Tensor]:
    """The tensors of the dense output, on copies of the examples; random operators draw the same in every call."""
    devices = {leaf.device for leaf in tensors_of(examples) if leaf.is_cuda}
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        return tensors_of(module(*pytree.tree_map_only(torch.Tensor, torch.clone, examples)))


def fold_preprocess(graph_module: fx.GraphModule, preprocess: Preprocess, dtype: torch.dtype) -> None:
    """The first input takes raw frames from here on; the passes, and their verification, know nothing of it."""
    first = next(iter(graph_module.graph.find_nodes(op="placeholder")))
    entries = [leaf_module(graph_module, user) for user in first.users]
    if not entries or not isinstance(entries[0], DenseToDelta):
        raise ConvertError(f"preprocess: the first input, {first.target!r}, is not read as an image.")
    entries[0].set_preprocess(preprocess, dtype)


def verify_pass(name: str, expected: list[Any] | None, got: list[Any]) -> None:
    assert expected is not None
    error = relative_error(got, expected) if len(got) == len(expected) else float("inf")
    if not error <= max((VERIFY_TOLERANCE.get(want.dtype, 0.0) for want in expected), default=0.0):
        raise ConvertError(
            f"pass {name} changed the result: the example's output is off by {error:.2e} (relative). This is a bug in "
            f"deltafx; for a report, dump='folder' writes the graph after each pass."
        )


def write_graph(graph_module: fx.GraphModule, folder: str | None, number: int, name: str) -> None:
    if folder is not None:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        text = f"{graph_module.graph}\n\n{graph_module.code}"
        pathlib.Path(folder, f"{number:02d}_{name}.txt").write_text(text)


def refuse_unknown_paths(settings: Settings, context: Context, graph_module: fx.GraphModule) -> None:
    for name in settings.keep_dense:
        if name not in context.used_names:
            known = {n.meta["path"] for n in graph_module.graph.nodes if leaf_module(graph_module, n) is not None}
            raise ConvertError(unknown_name("module path or operator in keep_dense", name, known))


def refuse_islands(graph_module: fx.GraphModule) -> None:
    nodes = [node for node in graph_module.modules() if isinstance(node, DeltaNode)]
    islands = [(node, node.island) for node in nodes if node.island and not node.island.wanted]
    if islands:
        rows = "\n".join(f"  {node.path}: {node.operator} runs dense, {island.reason}" for node, island in islands)
        raise ConvertError(
            f"strict=True and {len(islands)} nodes have no delta form:\n{rows}\n"
            f"Name those you accept: keep_dense={[node.path for node, _ in islands]!r}."
        )
