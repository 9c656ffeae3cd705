"""From a module to a dense graph whose nodes have public names."""

from __future__ import annotations

import collections
import contextlib
import copy
import inspect
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from deltafx.call_form import CallForm
from deltafx.contents import refuse_sizes_by_contents
from deltafx.draws import Draws
from deltafx.errors import ConvertError, NoGraph
from deltafx.graph_module import DeltaGraphModule
from deltafx.leaves import inline_leaves
from deltafx.ops import operator_of_module
from deltafx.passes.context import constant_of, place_constant, place_module
from deltafx.passes.functionalise import IN_PLACE_OPERATORS
from deltafx.retrace import CONTAINERS, Attributes, described, equal, refuse_memory
from deltafx.specialise import SizedTracer
from deltafx.tracer import LeftOut, Tracer, is_variable
from deltafx.watched import has_hooks

TRACING = threading.RLock()  # fx changes what a call of any module is while it traces
STATE_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU)
NAMED_STATE_IN_TRAINING = ("StochasticDepth", "DropPath")  # torchvision, timm


def capture(model: nn.Module) -> fx.GraphModule:
    """A graph module over the caller's weights, which is not changed. The graph of a GraphModule is taken over.

    Raises NoGraph where it cannot be traced, and ConvertError where it is no dense network in evaluation mode.
    """
    check_model(model)
    if isinstance(model, fx.GraphModule):
        graph_module = over(model, copy.deepcopy(model.graph), {})
        inline_leaves(graph_module, capture_module)
        return graph_module
    refuse_what_a_trace_misses(model)
    return capture_module(model, optional_of(model))


def capture_module(module: nn.Module, optional: Sequence[str] = ()) -> fx.GraphModule:
    """A graph module of what the forward of its class does, if it does that whether it is given `optional` or not.

    Raises NoGraph.
    """
    with TRACING, torch.inference_mode(False), stand_ins(module) as originals:
        graph = trace(module, originals, Tracer)
        if optional:
            refuse_choices(module, graph, optional)
        return over(module, graph, originals)


def capture_call(module: nn.Module, path: str, form: CallForm) -> fx.GraphModule:
    """A graph module for calls of one form of the module at `path`, which takes the tensors of the call, one by one.

    Raises NoGraph.
    """
    called = module
    if operator_of_module(module) is not None:
        module, path = CallOf(module, path), ""
    with TRACING, torch.inference_mode(False), stand_ins(module) as originals:
        return over(module, trace(module, originals, lambda: SizedTracer(form, called)), originals, path)


class CallOf(nn.Module):
    """A layer, which is one call and has nothing inside, at its path."""

    def __init__(self, layer: nn.Module, path: str):
        super().__init__()
        self.place = place_module(self, path or "layer", layer)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule(self.place)(*args, **kwargs)


def trace(model: nn.Module, originals: dict[Tensor, Tensor], new_tracer: Callable[[], Tracer]) -> fx.Graph:
    """The graph of a model whose own tensors are stand-ins."""
    before = Attributes(model)
    graph = trace_once(model, new_tracer())
    for name, buffer in model.named_buffers():
        if buffer not in originals or buffer._version:
            raise NoGraph(
                f"{type(model).__name__} writes into its buffer {name!r}, which would change from frame to frame. "
                f"Make it an input and an output of the model, or a local copy."
            )
    refuse_memory(model, graph, lambda: trace_once(model, new_tracer()), before)
    return graph


def trace_once(model: nn.Module, tracer: Tracer) -> fx.Graph:
    """As it is in the state that its modules are in."""
    random_numbers = torch.get_rng_state()
    with torch.no_grad(), Draws(lambda: tracer.evaluating) as draws:
        try:
            graph = tracer.trace(model)
        except NoGraph as reason:
            raise NoGraph(f"{type(model).__name__} cannot be traced by torch.fx: {reason}.") from reason
        except Exception as error:
            raise NoGraph(explain(model, tracer, error)) from error
    if draws.any:
        torch.set_rng_state(random_numbers)
        raise NoGraph(
            f"{type(model).__name__} draws random numbers whatever its input is; in a graph they would be the same in "
            f"every frame. Draw numbers like the input (torch.rand_like(x)), or make them an input."
        )
    return graph


@contextlib.contextmanager
def stand_ins(model: nn.Module) -> Iterator[dict[Tensor, Tensor]]:
    """Undo in the end what running the model's Python does to its modules: attributes it sets, lists it appends to.

    Meanwhile its tensors that are no parameters are copies; yields which of them stands for which.
    """
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    kept = [(module, dict(vars(module))) for module in modules]
    copies: dict[Tensor, Tensor] = {}

    def stand_in(value: Any) -> Any:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            # Through `data`, whose version starts at 0: the clone of a tensor made in inference mode is at 1.
            return copies.setdefault(value, value.detach().clone().data)
        return copy.copy(value) if type(value) in CONTAINERS else value

    for module, attributes in kept:
        vars(module).update({name: stand_in(value) for name, value in attributes.items()})
        vars(module)["_buffers"] = {name: stand_in(buffer) for name, buffer in attributes["_buffers"].items()}
    try:
        yield {stand_in: original for original, stand_in in copies.items()}
    finally:
        for module, attributes in kept:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)  # none is missing at any time: another thread may run the model


def over(root: nn.Module, graph: fx.Graph, originals: dict[Tensor, Tensor], path: str = "") -> fx.GraphModule:
    """A graph module of its own: the caller's leaf modules under legal names, and parameters over his constants."""
    drop_variable_arguments(graph)
    name_nodes(graph, path)
    refuse_sizes_by_contents(graph)
    result = fx.GraphModule(nn.Module(), fx.Graph(), type(root).__name__)
    result.training = False
    modules = dict(root.named_modules(remove_duplicate=False))
    places: dict[tuple[str, str], str] = {}
    for node in graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        target = str(node.target)
        if (node.op, target) not in places:
            if node.op == "call_module":
                place = place_module(result, target, modules[target])
            else:
                constant = constant_of(root, node)
                if constant is None:
                    raise NoGraph(f"{node.meta['path']}: the graph reads an attribute that is not a tensor.")
                place = place_constant(result, target, originals.get(constant, constant))
            places[node.op, target] = place
        node.target = places[node.op, target]
    result.graph = graph
    return result


def drop_variable_arguments(graph: fx.Graph) -> None:
    """Remove `*args` and `**kwargs` of the model's forward, which a graph cannot have."""
    for node in list(graph.find_nodes(op="placeholder")):
        if not is_variable(node):
            continue
        if node.users:
            raise NoGraph(
                f"the model's forward reads {node.target}; a graph has a fixed number of arguments. Name the arguments "
                f"that a frame consists of: def forward(self, x, y)."
            )
        graph.erase_node(node)


def check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConvertError(f"convert takes a torch.nn.Module; got {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConvertError("convert takes a Python module; a TorchScript module has no fx graph. Pass the original.")
    if isinstance(model, fx.GraphModule) and type(model.graph._codegen) is not fx.graph.CodeGen:
        raise ConvertError(
            "the GraphModule takes its arguments apart before its graph sees them, as those of torch.export and of "
            "concrete_args do. Pass the module that it was made from."
        )
    for path, module in model.named_modules():
        if isinstance(module, DeltaGraphModule):
            where = f"its submodule {path!r} is" if path else "it is"
            raise ConvertError(f"the model cannot be converted again: {where} a converted model. Pass the original.")
    training = [path or "the model" for path, m in model.named_modules()
                if m.training and (m is model or acts_in_training(m))]  # fmt: skip
    if training:
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        raise ConvertError(f"{training[0]}{more} is in training mode; call model.eval() before deltafx.convert.")


def refuse_what_a_trace_misses(model: nn.Module) -> None:
    """Raise NoGraph where a call of the model is more than the forward of its class, or depends on how it is called."""
    name = type(model).__name__
    if "forward" in vars(model):
        raise NoGraph(
            f"the forward of this {name} was replaced, which a trace does not see. Give it a class of its own."
        )
    if has_hooks(model):
        raise NoGraph(f"{name} has hooks, which a graph would not call; its parts can be converted, if it has any.")


def optional_of(model: nn.Module) -> list[str]:
    """The arguments that are None where they are left out."""
    parameters = inspect.signature(type(model).forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is None]


def refuse_choices(model: nn.Module, graph: fx.Graph, optional: Sequence[str]) -> None:
    """Raise NoGraph if the model does something else where these arguments are missing, beside using None for them."""
    with stand_ins(model):
        try:
            without = list(described(model, trace_once(model, LeftOut(optional)), optional))
        except NoGraph:
            return  # it needs them
    if not equal(without, list(described(model, graph, optional))):
        raise NoGraph(
            f"{type(model).__name__} may be called without {', '.join(optional)}, and does something else then."
        )


def acts_in_training(module: nn.Module) -> bool:
    return isinstance(module, STATE_IN_TRAINING) or type(module).__name__ in NAMED_STATE_IN_TRAINING


def explain(model: nn.Module, tracer: Tracer, error: Exception) -> str:
    """Which line of which module could not be traced."""
    inside = tuple(os.path.dirname(file) + os.sep for file in (torch.__file__, __file__))
    frames = traceback.extract_tb(error.__traceback__)
    line = next((f for f in reversed(frames) if not f.filename.startswith(inside)), frames[-1])
    module = f"module {tracer.failed_in!r}" if tracer.failed_in else "the model's own forward"
    reason = (str(error).strip().splitlines() or [""])[0]
    return (
        f"{type(model).__name__} cannot be traced by torch.fx: {module}, {line.filename}:{line.lineno}: {line.line}\n"
        f"  {type(error).__name__}: {reason}\n"
        f"Control flow that depends on a tensor, or loops over one, has no graph."
    )


def name_nodes(graph: fx.Graph, scope: str = "") -> None:
    """Give every node its public name in `node.meta["path"]`, which begins with the path of the graph's root, `scope`.

    A module's call has the module's path, a function's call that of the module in which it stands plus the function's
    name. Of several with one name, modules' calls come first, then the order of execution: the second has `#2` added,
    the third `#3`.
    """
    taken: collections.Counter[str] = collections.Counter()
    for node in sorted(graph.nodes, key=lambda node: node.op != "call_module"):
        name = path = f"{scope}.{base_name(node)}" if scope else base_name(node)
        while taken[path]:
            taken[name] += 1
            path = f"{name}#{taken[name]}"
        taken[path] += 1
        node.meta["path"] = path


def base_name(node: fx.Node) -> str:
    if node.op in ("call_module", "get_attr", "placeholder"):
        return str(node.target)
    if node.op == "output":
        return "output"
    target = IN_PLACE_OPERATORS.get(node.target, node.target)  # type: ignore[arg-type]
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    stack = node.meta.get("nn_module_stack")
    scope = next(reversed(stack.values()))[0] if stack else ""
    return f"{scope}.{name.strip('_')}" if scope else name.strip("_")
