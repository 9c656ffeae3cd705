"""Dense islands: operators without a delta form.

An island runs densely on the current values in every frame, and its output is compared with the last one, so that what
follows it is sparse again. It is always correct; the report counts it and says why it is one. Its output may be any
nest of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deltafx.ops.base import FunctionOp, Masks, Op, borrow_module, everything


class Island(Op):
    """An operator, module or function of which nothing is known but how to call it."""

    locality = "island"

    def __init__(self, dense: nn.Module, name: str, reason: str, wanted: bool = False):
        super().__init__()
        self.dense = dense
        self.name = name
        self.reason = reason
        self.wanted = wanted  # named in `keep_dense`: not worth a comment

    def forward(self, *inputs: Any) -> Any:
        return self.dense(*inputs)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda leaf: everything(masks, inputs, leaf), output)

    def mixes_streams(self, inputs: Sequence[Any]) -> bool:
        return True  # nothing is known of it, so a refresh of one stream is a refresh of all

    def extra_repr(self) -> str:
        return f"{self.name}: {self.reason}"


class ModuleCall(Op):
    """An unknown leaf module, called as the model called it."""

    def __init__(self, module: nn.Module, call: FunctionOp):
        super().__init__()
        self.module = borrow_module(module)
        self.call = call

    def forward(self, *inputs: Any) -> Any:
        args, kwargs = self.call.fill(inputs)
        return self.module(*args, **kwargs)


def island_of_function(
    function: Callable, args: Sequence[Any], kwargs: dict[str, Any], name: str, reason: str, wanted: bool = False
) -> Island:
    return Island(FunctionOp(function, args, kwargs), name, reason, wanted)


def island_of_module(
    module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], name: str, reason: str, wanted: bool = False
) -> Island:
    return Island(ModuleCall(module, FunctionOp(torch.nn.Identity, args, kwargs)), name, reason, wanted)
