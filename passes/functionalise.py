"""Turn in-place operators into their out-of-place forms, and let later readers read the result.

Why: a remembered value must not be overwritten. Almost every network has `ReLU(inplace=True)` and `x += y`. After
`y = relu_(x)`, whoever reads x later, in the dense network, reads y: so it must here. Where x is itself a view of, or
is viewed by, something that is read later, the write would have to reach that too; this is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from deltafx import ops
from deltafx.errors import ConvertError
from deltafx.passes.canonicalise_operators import host_nodes
from deltafx.passes.context import Context, leaf_module

IN_PLACE_OPERATORS: dict[Callable, Callable] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
    operator.ipow: operator.pow, operator.iand: operator.and_, operator.ior: operator.or_, operator.ixor: operator.xor,
}  # fmt: skip
VIEW_CLASSES = (ops.View, ops.Reshape)


def set_item(x: Tensor, index: Any, value: Any) -> Tensor:
    """`x[index] = value` on a copy."""
    x = x.clone()
    x[index] = value
    return x


class OnCopy:
    """An in-place method or function without an out-of-place form, applied to a copy."""

    def __init__(self, function: Callable):
        self.function = function
        self.__name__ = function.__name__.strip("_")

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.function(x.clone(), *args, **kwargs)


def functionalise(graph_module: fx.GraphModule, context: Context) -> int:
    count = 0
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    host = host_nodes(graph_module.graph)
    for node in list(graph_module.graph.nodes):
        module = leaf_module(graph_module, node)
        if module is not None and getattr(module, "inplace", False) is True:
            pass  # the operator that is built for the module works out of place
        elif not make_out_of_place(node):
            continue
        count += 1
        if node in host:
            continue  # `size += 1` gives a new number
        written = node.all_input_nodes[0]
        refuse_written_view(written, node, order)
        for user in list(written.users):
            if order[user] > order[node]:
                user.replace_input_with(written, node)
    return count


def make_out_of_place(node: fx.Node) -> bool:
    """Rewrite the target of an in-place call; says whether it was one."""
    if node.op == "call_function":
        if node.target in IN_PLACE_OPERATORS:
            node.target = IN_PLACE_OPERATORS[node.target]
            return True
        if node.target is operator.setitem:
            node.target = set_item
            return True
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
            return True
        name = getattr(node.target, "__name__", "")
        if name.endswith("_") and not name.endswith("__"):
            plain = getattr(F, name[:-1], None) or getattr(torch, name[:-1], None)
            node.target = plain or OnCopy(node.target)
            return True
        return positional_inplace(node)
    if node.op == "call_method":
        name = str(node.target)
        if name.endswith("_") and not name.endswith("__"):
            if hasattr(Tensor, name[:-1]) and name not in ("copy_", "fill_", "zero_"):
                node.target = name[:-1]
            else:
                node.op, node.target = "call_function", OnCopy(getattr(Tensor, name))
            return True
        if name == "__setitem__":
            node.op, node.target = "call_function", set_item
            return True
    return False


def positional_inplace(node: fx.Node) -> bool:
    """`F.relu(x, True)`, `F.leaky_relu(x, 0.1, True)`: the flag is the last positional argument."""
    takes_flag = getattr(node.target, "__module__", "") == "torch.nn.functional" and "inplace" in varnames(node.target)
    if takes_flag and len(node.args) > 1 and node.args[-1] is True:
        if varnames(node.target).index("inplace") == len(node.args) - 1:
            node.args = (*node.args[:-1], False)
            return True
    return False


def varnames(function: Any) -> tuple[str, ...]:
    code = getattr(function, "__code__", None)
    return code.co_varnames[: code.co_argcount] if code else ()


def refuse_written_view(written: fx.Node, node: fx.Node, order: dict[fx.Node, int]) -> None:
    """Refuse a write that reaches, through a view, a tensor that is read under another name later."""
    aliases = [written.all_input_nodes[0]] if is_view(written) else []
    aliases += [user for user in written.users if is_view(user) and user is not node]
    for alias in aliases:
        if any(order[user] > order[node] and user is not written for user in alias.users):
            raise ConvertError(
                f"{node.meta['path']}: it writes in place into {written.meta['path']}, which shares memory with "
                f"{alias.meta['path']}, read later. Make one of them a copy (x = x.clone()) and convert again."
            )


def is_view(node: fx.Node) -> bool:
    if node.op == "call_method":
        return ops.METHODS.get(str(node.target)) in VIEW_CLASSES
    return node.op == "call_function" and ops.FUNCTIONS.get(node.target) in (*VIEW_CLASSES, ops.GetItem)
