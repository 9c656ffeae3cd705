"""How a convolution ends where a library can end it by itself: with residual, bias and activation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from deltafx import _cuda
from deltafx.backends.steps import Steps
from deltafx.state import Leaf

ACTIVATIONS = ("relu", "silu", "sigmoid", "tanh", "gelu", "gelu_tanh")


@dataclass(frozen=True, eq=False)
class Ending:
    """`activation(x + residual + bias)`; a relu may be cut off above, too."""

    bias: Tensor | None  # [C], of the dtype of the result
    residual: Tensor | None  # [N, C, H, W]
    activation: str | None = None
    highest: float = math.inf


PLAIN = Ending(None, None)


def ending_of(steps: Steps, leaf: Leaf) -> Ending | None:
    """The steps of a node `[N, C, H, W]` as an ending, if they are one."""
    code_names = {number: name for name, number in _cuda.codes.items()}
    kind_names = {number: name for name, number in _cuda.operands.items()}
    operands = iter(steps.operands)
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str | None = None
    highest = math.inf
    streams, _, rows, columns = leaf.shape
    for at in range(0, len(steps.codes), 2):
        code, kind = code_names[steps.codes[at]], kind_names[steps.codes[at + 1]]
        a, b = steps.numbers[at], steps.numbers[at + 1]
        if activation is not None:
            return None
        if (code, kind, a) == ("add", "per_channel", 1.0) and bias is None:
            bias = next(operands).flatten().to(leaf.device, leaf.dtype).contiguous()
        elif (code, kind, a) == ("add", "per_pixel", 1.0) and residual is None:
            residual = next(operands).unflatten(0, (streams, rows, columns)).permute(0, 3, 1, 2)
        elif code in ACTIVATIONS:
            activation = code
        elif code == "clamp" and a == 0:
            activation, highest = "relu", b
        else:
            return None
    return Ending(bias, residual, activation, highest)
