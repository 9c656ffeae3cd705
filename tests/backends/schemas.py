"""A network that needs every compiled operator, and what these are called with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Everything(nn.Module):
    """A network whose nodes need every compiled operator."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.first(x))
        gate = torch.sigmoid(x.mean((2, 3), keepdim=True))
        return self.pool(self.depthwise(x) + x) * 2, x * gate


class Record(TorchDispatchMode):
    """Keeps the arguments of the last call of each of a library's operators."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self.library = library
        self.calls: dict[str, tuple] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == self.library:
            self.calls[func._opname] = copied(args)
        return func(*args, **(kwargs or {}))


def copied(args: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, torch.clone, args)


def undeclared_writes(operator: Any, args: tuple) -> list[str]:
    """The arguments that an operator writes to without saying so, of a call that changes nothing here."""
    given = copied(args)
    operator(*given)
    found = []
    for argument, before, after in zip(operator._schema.arguments, args, given, strict=True):
        if argument.alias_info is None or not argument.alias_info.is_write:
            pairs = zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True)
            if not all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs):
                found.append(argument.name)
    return found


def names_of(library: str) -> list[str]:
    """The operators of a library, sorted."""
    schemas = torch._C._jit_get_all_schemas()
    return sorted(each.name.split("::")[1] for each in schemas if each.name.split("::")[0] == library)


def replaced(operator: Any, args: tuple, argument: str, value: Any) -> list[Any]:
    """A call's arguments with another value for one of them."""
    given = list(args)
    given[[each.name for each in operator._schema.arguments].index(argument)] = value
    return given
