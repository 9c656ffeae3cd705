"""What records a model's calls: `torch.fx`'s tracer and proxy, and what models ask of them beyond that."""

from __future__ import annotations

import collections
import dis
import inspect
import itertools
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from deltafx.answers import Answers
from deltafx.errors import NoGraph
from deltafx.ops import operator_of_module
from deltafx.passes.context import called_name
from deltafx.passes.functionalise import IN_PLACE_OPERATORS
from deltafx.watched import has_hooks

AUTOCAST = ("cpu", "cuda")


class Proxy(fx.Proxy):
    """A tensor that is traced. Beyond fx, `x[i] = y` and `x += y` are recorded as what they are, writes into x, and
    assertions about it hold (they are not kept)."""

    def stands_for(self) -> type:
        tracer: Any = self.tracer
        return Tensor if tracer.gives_a_tensor(self.node) else type(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __len__(self) -> int:  # which `list` asks for
        count = number_of_parts(self.node)
        return super().__len__() if count is None else count

    def __bool__(self) -> bool:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        passes = asserted(frame.f_back)
        return super().__bool__() if passes is None else passes


def recorder(function: Callable) -> Callable:
    def record(self: Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for in_place in IN_PLACE_OPERATORS:
    setattr(Proxy, f"__{in_place.__name__}__", recorder(in_place))


def asserted(frame: FrameType) -> bool | None:
    """The truth that lets an `assert` pass, if a frame stands at one: its next step jumps over an AssertionError."""
    steps = (step for step in dis.get_instructions(frame.f_code) if step.offset >= frame.f_lasti)
    jump, load = itertools.islice((step for step in steps if step.opname not in ("TO_BOOL", "NOT_TAKEN")), 2)
    raises = load.opname == "LOAD_ASSERTION_ERROR" or load.argval is AssertionError
    return "IF_TRUE" in jump.opname if raises and "JUMP" in jump.opname else None


class Tracer(fx.Tracer):
    """Keeps modules that have an operator as leaves, and remembers where it was when tracing fails.

    While it traces, every call of a module in this process comes here; those of other threads pass by.
    """

    failed_in: str | None = None
    evaluating = False  # what was recorded, meanwhile

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.autocast = autocast()
        self.answers = Answers(lambda value: value.stands_for() if isinstance(value, Proxy) else type(value))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or operator_of_module(m) is not None

    def iter(self, obj: Any) -> Iterator[Any]:
        count = number_of_parts(obj.node)
        return super().iter(obj) if count is None else iter([obj[i] for i in range(count)])

    def keys(self, obj: fx.Proxy) -> Any:
        return iter(()) if is_variable(obj.node) else super().keys(obj)

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        with self.answers:
            self.answers.give_to(type(root).forward)
            return super().trace(root, concrete_args)

    def gives_a_tensor(self, node: fx.Node) -> bool:
        """Whether that is certain."""
        if node.op == "call_module":
            return operator_of_module(self.root.get_submodule(str(node.target))) is not None
        return node.op in ("placeholder", "get_attr") and not is_variable(node)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, kind: str, *more: Any, **named: Any) -> fx.Node:
        if autocast() != self.autocast:
            raise NoGraph("it turns autocast on or off; convert it in the dtype that it should compute with")
        return super().create_node(kind, *more, **named)

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        if has_hooks(m) and not self.is_leaf_module(m, self.path_of_module(m)):
            raise NoGraph(f"its module {self.path_of_module(m)!r} has hooks, which a graph would not call")
        self.answers.give_to(m.forward)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or self.path_of_module(m)
            raise

    def create_arg(self, a: Any) -> Any:
        if type(a) is collections.OrderedDict:  # fx would hand the caller a plain dict
            return self.create_proxy("call_function", collections.OrderedDict, (list(a.items()),), {}).node
        return super().create_arg(a)


class LeftOut(Tracer):
    """Traces what a model does without some of its arguments."""

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = names

    def create_args_for_root(self, root_fn: Any, *more: Any) -> tuple[Any, list]:
        function, args = super().create_args_for_root(root_fn, *more)
        names = inspect.unwrap(root_fn).__code__.co_varnames
        given = [None if name in self.names else arg for name, arg in zip(names, args, strict=False)]
        return function, given + args[len(given) :]


def autocast() -> tuple[bool, ...]:
    return tuple(map(torch.is_autocast_enabled, AUTOCAST))


def is_variable(node: fx.Node) -> bool:
    """Whether it stands for `*args` or `**kwargs` of the model's forward, which are empty in a graph."""
    return node.op == "placeholder" and str(node.target).startswith("*")


def number_of_parts(node: fx.Node) -> int | None:
    """How many tensors there are to loop over, where the call says so: `list(x.chunk(2, 1))`."""
    if is_variable(node):
        return 0
    name = called_name(node)
    if name not in ("chunk", "split", "tensor_split"):
        return None
    named = ("chunks", "split_size_or_sections", "split_size", "indices_or_sections", "sections")
    given = [*node.args[1:2], *(node.kwargs[each] for each in named if each in node.kwargs)]
    if len(given) != 1 or any(isinstance(each, fx.Node) for each in pytree.tree_leaves(given)):
        return None
    (parts,) = given
    if name in ("chunk", "tensor_split") and isinstance(parts, int):
        return parts
    return len(parts) + (name == "tensor_split") if isinstance(parts, (list, tuple)) else None
