"""What a model is told when it asks for types while it is traced: what stands for a tensor is one.

`isinstance` itself cannot be told: PyTorch's C++ asks it too, and reads a tensor's memory where it says yes. So the
name is given another meaning, for as long as a trace takes, in the files of the modules that are traced.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from typing import Any

import torch

LIBRARIES = tuple(os.path.dirname(file) + os.sep for file in (torch.__file__, __file__))


class Answers:
    """`stands_for` gives the type of an object: its own, or that of what it stands for."""

    is_tensor: Any  # PyTorch's own

    def __init__(self, stands_for: Callable[[Any], type]):
        self.stands_for = stands_for
        self.shadowed: list[dict[str, Any]] = []  # names of files

    def give_to(self, function: Any) -> None:
        """To a function and all else in its file."""
        code, names = getattr(function, "__code__", None), getattr(function, "__globals__", None)
        if code is None or names is None or "isinstance" in names or code.co_filename.startswith(LIBRARIES):
            return
        names["isinstance"] = self.is_instance
        self.shadowed.append(names)

    def is_instance(self, value: Any, kinds: Any) -> bool:
        return builtins.isinstance(value, kinds) or issubclass(self.stands_for(value), kinds)

    def __enter__(self) -> None:
        self.is_tensor = torch.is_tensor
        torch.is_tensor = lambda obj: self.is_instance(obj, torch.Tensor)  # type: ignore[assignment]

    def __exit__(self, *error: Any) -> None:
        torch.is_tensor = self.is_tensor
        while self.shadowed:
            del self.shadowed.pop()["isinstance"]
