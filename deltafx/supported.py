"""Which dense spellings have a delta form, from the operators' own lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deltafx.backends import unavailable
from deltafx.ops import OPERATORS, Affine, BatchNorm

FORMS: dict[type, Any] = {BatchNorm: Affine}  # what a family becomes in inference


@dataclass(frozen=True)
class SupportedOperator:
    """A family of operators: how far a changed pixel reaches, its names, and whether there is a CPU kernel."""

    name: str
    locality: str
    spellings: tuple[str, ...]
    compiled: bool


def supported_operators() -> tuple[SupportedOperator, ...]:
    """Every family; what is spelled otherwise runs densely, and the report says so."""
    compiled: set[type] = set()
    if unavailable("cpu") is None:
        from deltafx.backends.families import COMPILED

        compiled = set(COMPILED)
    found = []
    for family in OPERATORS:
        form = FORMS.get(family, family)
        locality = form.locality or "global"
        found.append(SupportedOperator(family.__name__, locality, spellings_of(family), form in compiled))
    return tuple(found)


def spellings_of(family: type) -> tuple[str, ...]:
    modules = [f"nn.{each.__name__}" for each in getattr(family, "module_types", ())]
    names = (*getattr(family, "module_names", ()), *getattr(family, "function_names", ()))
    foreign = [each.rpartition(".")[2] for each in names]
    functions = [each.__name__ for each in getattr(family, "functions", ())]
    methods = [f"Tensor.{each}" for each in getattr(family, "methods", ()) if each not in functions]
    return tuple(dict.fromkeys([*modules, *foreign, *functions, *methods]))
