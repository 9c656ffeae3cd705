"""The compiler: from a captured graph to one that runs on deltas, pass by pass."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from deltafx.capture import stand_ins
from deltafx.errors import ConvertError, NoGraph, unknown_name
from deltafx.graph_module import DeltaGraphModule, put_together, record
from deltafx.history import Journal
from deltafx.measure import relative_error, tensors_of
from deltafx.node import DeltaNode, DenseToDelta
from deltafx.passes import PASSES, Context
from deltafx.passes.context import constant_of, leaf_module, place_constant, place_module
from deltafx.preprocess import Preprocess
from deltafx.runtime import Runtime, Weights
from deltafx.settings import Settings

# A pass may change rounding (folding does), not results.
VERIFY_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


def compile_graph(
    graph_module: fx.GraphModule, context: Context, dense: nn.Module | None = None, examples: Sequence[Any] = ()
) -> DeltaGraphModule:
    """Run the passes over a captured graph, which is used up, and put the result together.

    With `dense`, the graph after every pass is compared with it, by what they make of `examples`.
    """
    settings = context.settings
    dtype = Weights.of(graph_module).dtype or torch.float32
    expected = None if dense is None else dense_output(dense, examples)
    journal = Journal(graph_module)
    write_graph(graph_module, settings.dump, 0, "capture")
    if expected is not None:
        graph_module.recompile()
        verify_capture(expected, graph_module, examples)
    for number, rewrite in enumerate(PASSES, start=1):
        rewrites = rewrite(graph_module, context)
        graph_module.graph.lint()
        graph_module.recompile()
        journal.note(rewrite.__name__, rewrites, graph_module)
        write_graph(graph_module, settings.dump, number, rewrite.__name__)
        if expected is not None:
            verify_pass(rewrite.__name__, expected, dense_output(graph_module, examples))
    if settings.preprocess is not None:
        fold_preprocess(graph_module, settings.preprocess, dtype)
    context.paths |= {n.meta["path"] for n in graph_module.graph.nodes if leaf_module(graph_module, n) is not None}
    if settings.strict:
        refuse_islands(graph_module)
    result = assemble(graph_module, settings)
    result.history = journal.history
    return result


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


def dense_output(module: nn.Module, examples: Sequence[Any]) -> list[torch.Tensor]:
    """The tensors of the dense output, on copies of the examples; random operators draw the same in every call."""
    devices = {leaf.device for leaf in tensors_of(examples) if leaf.is_cuda}
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices), stand_ins(module):
        torch.manual_seed(0)
        return tensors_of(module(*pytree.tree_map_only(torch.Tensor, torch.clone, tuple(examples))))


def fold_preprocess(graph_module: fx.GraphModule, preprocess: Preprocess, dtype: torch.dtype) -> None:
    """The first input takes raw frames from here on; the passes, and their verification, know nothing of it."""
    first = next(iter(graph_module.graph.find_nodes(op="placeholder")))
    entries = [leaf_module(graph_module, user) for user in first.users]
    if not entries or not isinstance(entries[0], DenseToDelta):
        raise ConvertError(f"preprocess: the first input, {first.target!r}, is not read as an image.")
    device = next((parameter.device for parameter in graph_module.parameters()), torch.device("cpu"))
    entries[0].set_preprocess(preprocess, dtype, device)


def verify_capture(expected: list[Any], graph_module: fx.GraphModule, examples: Sequence[Any]) -> None:
    try:
        error = error_of(dense_output(graph_module, examples), expected)
    except Exception as reason:
        raise NoGraph(f"a graph of the model cannot be called as the model is: {reason}") from reason
    if error is not None:
        raise NoGraph(
            f"a graph of the model does something else than the model does: the example's output is off by {error:.2e} "
            f"(relative). It may ask what its arguments are, which stand for tensors while it is traced, and are none."
        )


def verify_pass(name: str, expected: list[Any], got: list[Any]) -> None:
    error = error_of(got, expected)
    if error is not None:
        raise ConvertError(
            f"pass {name} changed the result: the example's output is off by {error:.2e} (relative). This is a bug in "
            f"deltafx; for a report, dump='folder' writes the graph after each pass."
        )


def error_of(got: list[Any], expected: list[Any]) -> float | None:
    """Relative, if it is more than rounding."""
    error = relative_error(got, expected) if len(got) == len(expected) else float("inf")
    most = max((VERIFY_TOLERANCE.get(want.dtype, 0.0) for want in expected), default=0.0)
    return None if error <= most else error


def write_graph(graph_module: fx.GraphModule, folder: str | None, number: int, name: str) -> None:
    if folder is not None:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        text = f"{graph_module.graph}\n\n{graph_module.code}"
        pathlib.Path(folder, f"{number:02d}_{name}.txt").write_text(text)


def refuse_unknown_names(context: Context) -> None:
    """Names of the user's that belong to nothing."""
    for name in context.settings.keep_dense:
        if name not in context.used_names:
            raise ConvertError(unknown_name("module path or operator in keep_dense", name, context.paths))
    if context.settings.calibration is not None:
        context.settings.calibration.check(context.fingerprint)
    for name in context.settings.thresholds:
        if name not in context.truncation_points:
            raise ConvertError(unknown_name("truncation point in threshold", name, context.truncation_points))


def refuse_islands(graph_module: fx.GraphModule) -> None:
    nodes = [node for node in graph_module.modules() if isinstance(node, DeltaNode)]
    islands = [(node, node.island) for node in nodes if node.island and not node.island.wanted]
    if islands:
        rows = "\n".join(f"  {node.path}: {node.operator} runs dense, {island.reason}" for node, island in islands)
        raise ConvertError(
            f"strict=True and {len(islands)} nodes have no delta form:\n{rows}\n"
            f"Name those you accept: keep_dense={[node.path for node, _ in islands]!r}."
        )
