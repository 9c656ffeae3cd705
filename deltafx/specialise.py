"""Tracing a module for calls of one form.

Its tensors are placeholders, one for each, however they are nested; what is no tensor is a constant. Sizes are known
while it is traced, so that loops over them and decisions by them are taken as they are for this form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from deltafx.call_form import CallForm
from deltafx.errors import NoGraph
from deltafx.tracer import Proxy, Tracer

VALUE = "value"  # in a node's meta: its result for arguments without contents
ATTRIBUTES = ("shape", "ndim", "dtype", "device", "is_cuda", "layout", "itemsize", "requires_grad")
METHODS = ("size", "dim", "ndimension", "numel", "nelement", "element_size", "is_floating_point", "is_complex")


class SizedProxy(Proxy):
    """A value of which all is known but its contents."""

    def __getattr__(self, name: str) -> Any:
        value = self.node.meta.get(VALUE)
        if isinstance(value, Tensor) and name in ATTRIBUTES + METHODS:
            return getattr(value, name)
        return super().__getattr__(name)

    def stands_for(self) -> type:
        return type(self.node.meta[VALUE]) if VALUE in self.node.meta else super().stands_for()

    def __len__(self) -> int:
        value = self.node.meta.get(VALUE)
        return len(value) if isinstance(value, (Tensor, tuple, list, dict)) else super().__len__()


class SizedTracer(Tracer):
    """Traces a root for calls of one form."""

    def __init__(self, form: CallForm, module: nn.Module):
        super().__init__()
        self.placeholders = form.tensors(module)
        self.form = form
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return SizedProxy(node, self)

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args: Any = None) -> tuple[Any, list]:
        tensors = []
        for name, tensor in self.placeholders:
            tensors.append(self.create_proxy("placeholder", name, (), {}))
            with self.fake:
                tensors[-1].node.meta[VALUE] = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        args, kwargs = self.form.fill(tensors)

        def call(root: nn.Module) -> Any:
            result = root_fn(root, *args, **kwargs)
            if pytree.tree_flatten((args, kwargs))[1] != self.form.spec:
                raise NoGraph("it changes the list or dictionary that it is given")
            return result

        return call, [self.root]

    def create_node(self, kind: str, *more: Any, **named: Any) -> fx.Node:
        node = super().create_node(kind, *more, **named)
        if kind not in ("placeholder", "output"):
            self.evaluate(node)
        return node

    def evaluate(self, node: fx.Node) -> None:
        """Note a node's result. It has none where that depends on the contents of its arguments."""
        try:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: source.meta[VALUE])
            self.evaluating = True
            with self.fake, torch.no_grad():
                node.meta[VALUE] = self.result_of(node, args, kwargs)
        except Exception:  # whatever the model's own code makes of arguments without contents
            node.meta.pop(VALUE, None)
        finally:
            self.evaluating = False

    def result_of(self, node: fx.Node, args: tuple, kwargs: dict[str, Any]) -> Any:
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
        value: Any = self.root
        for name in str(node.target).split("."):
            value = getattr(value, name)
        return value

    # While a leaf is evaluated, its modules and parameters are themselves.

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        return forward(*args, **kwargs) if self.evaluating else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def iter(self, obj: Any) -> Iterator[Any]:
        value = obj.node.meta.get(VALUE)
        if isinstance(value, (Tensor, tuple, list)):
            return iter([obj[index] for index in range(len(value))])
        return super().iter(obj)
