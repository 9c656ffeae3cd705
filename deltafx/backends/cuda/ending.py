"""How a convolution ends where cuDNN can end it by itself: with residual, bias and activation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deltafx import _cuda
from deltafx.backends.steps import Steps
from deltafx.state import Leaf

Operation = tuple[str, str, float]  # on the result so far: what it is, its other operand, and a number

AS_THEY_ARE = ("relu", "silu", "sigmoid", "tanh", "gelu", "gelu_tanh")


@dataclass(frozen=True, eq=False)
class Ending:
    """Operations on a convolution's result, one after the other.

    Their other operands: none (""), "bias", "residual", the "number" itself, or the "result" of that number: 0 is the
    convolution's, 1 the first operation's.
    """

    operations: tuple[Operation, ...] = ()
    bias: Tensor | None = None  # [C], of the dtype of the result
    residual: Tensor | None = None  # [N, C, H, W]

    def widened(self, channels: int) -> Ending:
        """For so many channels, without a residual."""
        if self.bias is None:
            return self
        return replace(self, bias=torch.nn.functional.pad(self.bias, (0, channels - len(self.bias))))


PLAIN = Ending()


def ending_of(steps: Steps, leaf: Leaf) -> Ending | None:
    """The steps of a node `[N, C, H, W]` as an ending, if they are one."""
    code_names = {number: name for name, number in _cuda.codes.items()}
    kind_names = {number: name for name, number in _cuda.operands.items()}
    operands = iter(steps.operands)
    bias: Tensor | None = None
    residual: Tensor | None = None
    operations: list[Operation] = []
    streams, _, rows, columns = leaf.shape
    for at in range(0, len(steps.codes), 2):
        code, kind = code_names[steps.codes[at]], kind_names[steps.codes[at + 1]]
        a, b = steps.numbers[at], steps.numbers[at + 1]
        if (code, kind, a) == ("add", "per_channel", 1.0) and bias is None:
            bias = next(operands).flatten().to(leaf.device, leaf.dtype).contiguous()
            operations.append(("add", "bias", 0.0))
        elif (code, kind, a) == ("add", "per_pixel", 1.0) and residual is None:
            residual = next(operands).unflatten(0, (streams, rows, columns)).permute(0, 3, 1, 2)
            operations.append(("add", "residual", 0.0))
        else:
            activation = activated(code, a, b, before=len(operations))
            if activation is None:
                return None
            operations += activation
    return Ending(tuple(operations), bias, residual)


def activated(code: str, a: float, b: float, before: int) -> list[Operation] | None:
    """An activation as operations on result number `before`."""
    if code in AS_THEY_ARE:
        return [(code, "", 0.0)]
    if code == "clamp" and a == 0:
        return cut_off(b)
    if code == "leaky_relu" and 0 <= a <= 1:
        return [("mul", "number", a), ("max", "result", before)]
    if code == "hardsigmoid":
        return [("add", "number", 3.0), *cut_off(6.0), ("mul", "number", 1 / 6)]
    if code == "hardswish":
        return [("add", "number", 3.0), *cut_off(6.0), ("mul", "number", 1 / 6), ("mul", "result", before)]
    return None


def cut_off(highest: float) -> list[Operation]:
    """Between 0 and a number: `highest - relu(highest - relu(x))`. Of NaN, cuDNN's own minimum would make a number."""
    if highest == math.inf:
        return [("relu", "", 0.0)]
    turned: list[Operation] = [("mul", "number", -1.0), ("add", "number", highest)]
    return [("relu", "", 0.0), *turned, ("relu", "", 0.0), *turned]
