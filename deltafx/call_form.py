"""What a call of a module looks like: how its arguments are nested, the sizes of tensors, the values of all else."""

from __future__ import annotations

import enum
import functools
import inspect
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deltafx.errors import NoGraph
from deltafx.state import Form

KEPT_FORMS = 4  # of one module's calls: the graphs used longest ago make room

# What a graph may contain as it stands, and two calls can be told apart by.
CONSTANTS = (
    bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.memory_format, enum.Enum,
)  # fmt: skip


@dataclass(frozen=True)
class CallForm:
    """Two calls of equal form can share a graph. `leaves` has a Form for each tensor, else (type, value)."""

    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]
    number: int = field(init=False, compare=False, repr=False)  # its hash, which a frame asks for many times

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", hash(self.leaves))  # that of a spec takes longer than all else here

    def __hash__(self) -> int:
        return self.number

    @classmethod
    def of(cls, args: tuple, kwargs: dict[str, Any]) -> tuple[CallForm, list[Tensor]]:
        """The form of a call and its tensors. Raises NoGraph where an argument is of a kind that has none."""
        given, spec = flattened(args, kwargs)
        leaves: list[Any] = []
        for leaf in given:
            if isinstance(leaf, Tensor):
                leaves.append(Form(leaf.shape, leaf.dtype, leaf.device))
            elif isinstance(leaf, CONSTANTS):
                leaves.append((type(leaf), leaf))
            else:
                raise NoGraph(f"it is given a {type(leaf).__name__}, which has no place in a graph")
        return cls(spec, tuple(leaves)), [leaf for leaf in given if isinstance(leaf, Tensor)]

    def tensors(self, module: nn.Module) -> list[tuple[str, Form]]:
        """The tensors of a call of the module, by name: that of the argument, and the place in it."""
        keyed, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(self.leaves, self.spec))
        parameters = positional(module)
        return [(name_of(path, parameters), leaf) for path, leaf in keyed if isinstance(leaf, Form)]

    def fill(self, tensors: list[Any]) -> tuple[tuple, dict[str, Any]]:
        """Arguments of this form, with `tensors` in the places of the tensors."""
        rest = iter(tensors)
        leaves = [next(rest) if isinstance(leaf, Form) else leaf[1] for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)


def flattened(args: tuple, kwargs: dict[str, Any]) -> tuple[list[Any], pytree.TreeSpec]:
    """As PyTorch's tree_flatten of both does it; in a fraction of the time where all are tensors, as in most calls."""
    if kwargs or not all(isinstance(each, Tensor) for each in args):
        return pytree.tree_flatten((args, kwargs))
    return list(args), spec_of(len(args))


@functools.cache
def spec_of(count: int) -> pytree.TreeSpec:
    """Of a call with so many tensors."""
    return pytree.tree_structure(((None,) * count, {}))


def positional(module: nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    return [each.name for each in parameters if each.kind in kinds]


def name_of(path: Any, parameters: list[str]) -> str:
    """The name of a leaf of (args, kwargs): `features_0` for the first tensor of the list `features`."""
    place, first, *rest = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    if place == "0":
        first = parameters[int(first)] if int(first) < len(parameters) else f"input_{first}"
    return re.sub(r"\W", "_", "_".join([first, *rest]))
