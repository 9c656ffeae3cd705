"""From a module to a dense graph whose nodes have public names."""

from __future__ import annotations

import collections
import copy
import traceback
from typing import Any

import torch
from torch import fx, nn

from deltafx.errors import ConvertError
from deltafx.graph_module import DeltaGraphModule
from deltafx.ops import operator_of_module

STATE_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU)


class Tracer(fx.Tracer):
    """Keeps modules that have an operator as leaves, and remembers where it was when tracing fails."""

    failed_in: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or operator_of_module(m) is not None

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or self.path_of_module(m)
            raise

    def create_arg(self, a: Any) -> Any:
        if type(a) is collections.OrderedDict:  # fx would hand the caller a plain dict
            return self.create_proxy("call_function", collections.OrderedDict, (list(a.items()),), {}).node
        return super().create_arg(a)


def capture(model: nn.Module) -> fx.GraphModule:
    """A graph module over the caller's weights; a GraphModule is taken as it is. The model is not changed."""
    check_model(model)
    if isinstance(model, fx.GraphModule):
        result = fx.GraphModule(model, copy.deepcopy(model.graph))
    else:
        tracer = Tracer()
        try:
            graph = tracer.trace(model)
        except Exception as error:
            raise ConvertError(explain(model, tracer, error)) from error
        result = fx.GraphModule(tracer.root, graph)
    name_nodes(result.graph)
    return result


def check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConvertError(f"convert takes a torch.nn.Module; got {type(model).__name__}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConvertError("convert takes a Python module; a TorchScript module has no fx graph. Pass the original.")
    for path, module in model.named_modules():
        if isinstance(module, DeltaGraphModule):
            where = f"its submodule {path!r} is" if path else "it is"
            raise ConvertError(f"the model cannot be converted again: {where} a converted model. Pass the original.")
    training = [path or "the model" for path, m in model.named_modules()
                if m.training and (m is model or isinstance(m, STATE_IN_TRAINING))]  # fmt: skip
    if training:
        more = f" and {len(training) - 1} more" if len(training) > 1 else ""
        raise ConvertError(f"{training[0]}{more} is in training mode; call model.eval() before deltafx.convert.")


def explain(model: nn.Module, tracer: Tracer, error: Exception) -> str:
    """Which line of which module could not be traced."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    frames = [f for f in frames if not f.filename.endswith("deltafx/capture.py")] or frames
    line = frames[-1] if frames else None
    where = f"{line.filename}:{line.lineno}: {line.line}" if line else "an unknown line"
    module = f"module {tracer.failed_in!r}" if tracer.failed_in else "the model's own forward"
    return (
        f"{type(model).__name__} cannot be traced by torch.fx: {module}, {where}\n"
        f"  {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}\n"
        f"Control flow that depends on a tensor, or loops over one, has no graph. Convert the parts that have none of "
        f"it, for example model.backbone = deltafx.convert(model.backbone)."
    )


def name_nodes(graph: fx.Graph) -> None:
    """Give every node its public name in `node.meta["path"]`.

    A module's call has the module's path, a function's call that of the module in which it stands plus the function's
    name. Of several calls with one name, the second has `#2` added, the third `#3`.
    """
    calls: collections.Counter[str] = collections.Counter()
    for node in graph.nodes:
        path = base_name(node)
        calls[path] += 1
        node.meta["path"] = path if calls[path] == 1 else f"{path}#{calls[path]}"


def base_name(node: fx.Node) -> str:
    if node.op in ("call_module", "get_attr", "placeholder"):
        return str(node.target)
    if node.op == "output":
        return "output"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    stack = node.meta.get("nn_module_stack")
    scope = next(reversed(stack.values()))[0] if stack else ""
    return f"{scope}.{name.strip('_')}" if scope else name.strip("_")
