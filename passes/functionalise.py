"""Turn in-place operators into their out-of-place forms, and let later readers read the result.

Why: a remembered value must not be overwritten. Almost every network has `ReLU(inplace=True)` and `x += y`. After
`y = relu_(x)`, whoever reads x later, in the dense network, reads y: so it must here. Where x shares memory, as a view,
with something else that is read later, the write would have to reach that too; this is refused. So is a write into the
model's own parameters and buffers. Once nothing is written, copies (`x.clone()`) are needless and go.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from deltafx import ops
from deltafx.errors import NoGraph
from deltafx.passes.canonicalise_operators import host_nodes
from deltafx.passes.context import Context, called_name, leaf_module

IN_PLACE_OPERATORS: dict[Callable, Callable] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
    operator.ipow: operator.pow, operator.iand: operator.and_, operator.ior: operator.or_, operator.ixor: operator.xor,
    operator.imatmul: operator.matmul,
}  # fmt: skip
HARMLESS = ("torch", "_operator", "operator", "math", "builtins")  # modules in which what writes is known
WITHOUT_PLAIN_FORM = ("bernoulli_", "copy_", "fill_", "zero_")  # x.bernoulli() reads x as probabilities
PARTS = ("chunk", "split", "tensor_split", "unbind")  # what they give does not overlap
COPIES = (("call_method", "clone"), ("call_function", torch.clone))
MAY_SHARE = ("to", "float", "double", "half", "bfloat16", "type_as")  # give x itself if there is nothing to do


def set_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """`x[index] = value` on a copy."""
    x = x.clone()
    x[index] = value
    return x


class OnCopy:
    """An in-place function or method without an out-of-place form, applied to a copy; its operator is that one's."""

    def __init__(self, function: Any):
        self.function = self.stands_for = function
        self.__name__ = function.__name__.strip("_")

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.function(x.clone(), *args, **kwargs)


def functionalise(graph_module: fx.GraphModule, context: Context) -> int:
    count = 0
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    host = host_nodes(graph_module.graph)
    for node in list(graph_module.graph.nodes):
        # The operator that is built for a module works out of place in any case.
        rewritten = writes_in_place(leaf_module(graph_module, node))
        if not rewritten and not make_out_of_place(node):
            refuse_unread(node)
            continue
        count += not rewritten
        if node in host:
            continue  # `size += 1` gives a new number
        written = node.all_input_nodes[0]
        if not is_written_back(written, node):
            later = [n for n in order if order[n] > order[node] and n not in host]
            refuse_shared(graph_module, written, node, later)
        for user in list(written.users):
            if order[user] > order[node]:
                user.replace_input_with(written, node)
                count += rewritten
    return count + drop_copies(graph_module.graph)


def writes_in_place(module: nn.Module | None) -> bool:
    return getattr(module, "inplace", False) is True


def make_out_of_place(node: fx.Node) -> bool:
    """Rewrite the target of an in-place call; says whether it was one."""
    name = called_name(node)
    marked = name.endswith("_") and not name.endswith("__")
    marked = marked and getattr(node.target, "__module__", "") != "_operator"  # operator.and_ writes nothing
    if isinstance(node.target, torch._ops.OpOverload):
        marked = node.target._schema.is_mutable
    if node.op == "call_function":
        if getattr(ops.operator_of_function(node.target), "writes_input", False):
            if isinstance(node.target, OnCopy):
                return False
            node.target = OnCopy(node.target)
        elif node.target in IN_PLACE_OPERATORS:
            node.target = IN_PLACE_OPERATORS[node.target]
        elif node.target is operator.setitem:
            node.target = set_item
        elif node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
        elif isinstance(node.kwargs.get("out"), fx.Node):
            raise NoGraph(f"{node.meta['path']}: it writes into out=; use what it returns, without out=.")
        elif marked and not isinstance(node.target, type):
            node.target = plain_function(node.target) or OnCopy(node.target)
        else:
            return positional_inplace(node)
        return True
    if node.op == "call_method" and (marked or name == "__setitem__"):
        if hasattr(Tensor, name[:-1]) and name not in WITHOUT_PLAIN_FORM:
            node.target = name[:-1]
        else:
            node.op = "call_function"
            node.target = set_item if name == "__setitem__" else OnCopy(getattr(Tensor, name))
        return True
    return False


def plain_function(function: Any) -> Callable | None:
    """The out-of-place form of PyTorch's own `relu_`."""
    name = function.__name__
    for namespace in (F, torch):
        if getattr(namespace, name, None) is function and name not in WITHOUT_PLAIN_FORM:
            return getattr(namespace, name[:-1], None)
    return None


def positional_inplace(node: fx.Node) -> bool:
    """`F.relu(x, True)`, `F.leaky_relu(x, 0.1, True)`: the flag is a positional argument."""
    names = varnames(node.target)
    position = names.index("inplace") if "inplace" in names else len(node.args)
    if position >= len(node.args) or node.args[position] is not True:
        return False
    node.args = (*node.args[:position], False, *node.args[position + 1 :])
    return True


def refuse_unread(node: fx.Node) -> None:
    """A function of which nothing is known, and whose result is not read, is there for what it writes."""
    known = getattr(node.target, "__module__", None) or "torch"
    if node.op != "call_function" or node.users or not node.all_input_nodes or known.split(".")[0] in HARMLESS:
        return
    name = getattr(node.target, "__name__", str(node.target))
    raise NoGraph(
        f"{node.meta['path']}: nothing reads what {name} returns, so it may be there for what it writes into its "
        f"arguments, which a graph cannot see. Make the model read its result (x = {name}(x, ...))."
    )


def varnames(function: Any) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return code.co_varnames[: code.co_argcount] if code else ()


def is_written_back(written: fx.Node, node: fx.Node) -> bool:
    """`x[i] += 1` is three calls: y = x[i]; y += 1; x[i] = y. The last one tells where the write goes."""
    writes = [user for user in node.users if user.target is operator.setitem]
    return any(write.args == (*written.args, node) for write in writes) and written.target is operator.getitem


def refuse_shared(graph_module: fx.GraphModule, written: fx.Node, node: fx.Node, later: list[fx.Node]) -> None:
    """Refuse a write that reaches a tensor which is read under another name later, or the model's own."""
    where = node.meta["path"]
    source = root_of(graph_module, written)
    if source.op == "get_attr":
        raise NoGraph(
            f"{where}: it writes in place into {source.meta['path']}, which belongs to the model and would change from "
            f"frame to frame. Make it a copy ({source.meta['path']}.clone()) and convert again."
        )
    for other in sharing(graph_module, source, written, set(later)):
        if any(user in later for user in other.users):
            raise NoGraph(
                f"{where}: it writes in place into {written.meta['path']}, which shares memory with "
                f"{other.meta['path']}, read later. Make one of them a copy (x = x.clone()) and convert again."
            )


def root_of(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The tensor of which a view, or a view of a view, is taken."""
    while may_be_view(graph_module, node):
        node = node.all_input_nodes[0]
    return node


def sharing(graph_module: fx.GraphModule, source: fx.Node, written: fx.Node, later: set[fx.Node]) -> list[fx.Node]:
    """What may share memory with a view of `source`: all earlier views of it, but the other parts of a split."""
    lineage = [written]
    while lineage[-1] is not source:
        lineage.append(lineage[-1].all_input_nodes[0])
    result, waiting = [], [source]
    while waiting:
        node = waiting.pop()
        split = node in lineage and is_split(node)
        if node is not written and not split:
            result.append(node)
        views = [user for user in node.users if user.all_input_nodes[0] is node and may_be_view(graph_module, user)]
        waiting += [view for view in views if view not in later and (not split or view in lineage)]
    return result


def is_split(node: fx.Node) -> bool:
    """Whether it gives several parts that do not overlap, each picked once."""
    name = called_name(node)
    picks = [user.args[1] for user in node.users if user.target is operator.getitem]
    return name in PARTS and len(set(picks)) == len(picks) == len(node.users)


def may_be_view(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    views: tuple[type | None, ...] = (ops.View, ops.Reshape, ops.GetItem)
    if node.op == "call_module":
        family = ops.operator_of_module(graph_module.get_submodule(str(node.target)))
        return family in views
    if node.target is builtins.getattr:
        return node.args[1] in ops.Attribute.views
    if node.op == "call_method":
        return ops.METHODS.get(str(node.target)) in views or node.target in MAY_SHARE
    return node.op == "call_function" and ops.FUNCTIONS.get(node.target) in views  # type: ignore[arg-type]


def drop_copies(graph: fx.Graph) -> int:
    """Remove clones: nothing is written into either of the two any more."""
    copies = [node for node in graph.nodes if (node.op, node.target) in COPIES]
    for node in copies:
        node.replace_all_uses_with(node.all_input_nodes[0])
        graph.erase_node(node)
    return len(copies)
