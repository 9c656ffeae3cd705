"""A fused node's later stages as the steps that end a compiled kernel."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deltafx.backends.matrix import NoKernel, matrix
from deltafx.node import Stage
from deltafx.ops import Affine, Op, Pointwise, Slot
from deltafx.ops.pointwise import Activation
from deltafx.state import Leaf

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
INFINITY = math.inf

Function = tuple[str, float, float]  # a code and its numbers

# Activation modules without, and with, arguments.
PLAIN: dict[type[nn.Module], Function] = {
    nn.ReLU: ("relu", 0, 0), nn.ReLU6: ("clamp", 0, 6), nn.SELU: ("elu", SELU_ALPHA * SELU_SCALE, SELU_SCALE),
    nn.SiLU: ("silu", 0, 0), nn.Mish: ("mish", 0, 0), nn.Sigmoid: ("sigmoid", 0, 0), nn.Tanh: ("tanh", 0, 0),
    nn.Hardsigmoid: ("hardsigmoid", 0, 0), nn.Hardswish: ("hardswish", 0, 0),
}  # fmt: skip
TUNED: dict[type[nn.Module], Callable[[Any], Function]] = {
    nn.LeakyReLU: lambda m: ("leaky_relu", m.negative_slope, 0),
    nn.RReLU: lambda m: ("leaky_relu", (m.lower + m.upper) / 2, 0),
    nn.ELU: lambda m: ("elu", m.alpha, 1),
    nn.GELU: lambda m: ("gelu_tanh" if m.approximate == "tanh" else "gelu", 0, 0),
    nn.Hardtanh: lambda m: ("clamp", m.min_val, m.max_val),
    nn.Softplus: lambda m: ("softplus", m.beta, m.threshold),
}

# Functions of one tensor, by name, as far as they are called with it alone.
UNARY: dict[str, Function] = {
    "relu": ("relu", 0, 0), "relu6": ("clamp", 0, 6), "selu": ("elu", SELU_ALPHA * SELU_SCALE, SELU_SCALE),
    "elu": ("elu", 1, 1), "gelu": ("gelu", 0, 0), "silu": ("silu", 0, 0), "mish": ("mish", 0, 0),
    "sigmoid": ("sigmoid", 0, 0), "tanh": ("tanh", 0, 0), "hardtanh": ("clamp", -1, 1),
    "hardsigmoid": ("hardsigmoid", 0, 0), "hardswish": ("hardswish", 0, 0), "softplus": ("softplus", 1, 20),
    "leaky_relu": ("leaky_relu", 0.01, 0), "exp": ("exp", 0, 0), "sqrt": ("sqrt", 0, 0), "abs": ("abs", 0, 0),
    "square": ("square", 0, 0), "reciprocal": ("reciprocal", 0, 0),
}  # fmt: skip

# Functions of two operands: the code where the chain comes first, and where it comes second. Of a sum, with the sign
# of alpha: add is x + a * y, rsub is y - a * x, for the chain x and the operand y.
PRODUCTS: dict[str, tuple[str, str]] = {
    "mul": ("mul", "mul"), "multiply": ("mul", "mul"), "div": ("div", "rdiv"), "divide": ("div", "rdiv"),
    "truediv": ("div", "rdiv"), "true_divide": ("div", "rdiv"), "maximum": ("maximum", "maximum"),
    "minimum": ("minimum", "minimum"),
}  # fmt: skip
SUMS: dict[str, tuple[tuple[str, int], tuple[str, int]]] = {
    "add": (("add", 1), ("rsub", -1)), "sub": (("add", -1), ("rsub", 1)), "subtract": (("add", -1), ("rsub", 1)),
    "rsub": (("rsub", 1), ("add", -1)),
}  # fmt: skip
CHAIN = object()  # stands for the previous result among a function's operands


class Steps:
    """The steps of one node, as the operators take them, and the inputs that they read.

    `compiled` is the backend's module, which has the numbers of codes and kinds of operands.
    """

    def __init__(self, out: Leaf, compiled: Any):
        self.out, self.compiled = out, compiled
        self.codes: list[int] = []
        self.numbers: list[float] = []
        self.operands: list[Tensor] = []
        self.sources: list[tuple[Leaf, str]] = []  # with their relation to the output's pixels

    @property
    def arguments(self) -> tuple[list[Tensor], list[int], list[float]]:
        return self.operands, self.codes, self.numbers

    def append(self, code: str, a: float = 0.0, b: float = 0.0, kind: str = "none") -> None:
        self.codes += [self.compiled.codes[code], self.compiled.operands[kind]]
        self.numbers += [float(a), float(b)]

    def stage(self, stage: Stage, inputs: Sequence[Any]) -> None:
        """Append a stage whose previous result is the tile."""
        self.op(stage.op, [CHAIN if index is None else inputs[index] for index in stage.operands])

    def op(self, op: Op, operands: Sequence[Any]) -> None:
        if isinstance(op, Affine):
            self.channels("mul", op.scale)
            self.channels("add", op.shift, 1.0)
        elif isinstance(op, Activation):
            self.activation(op.module)
        elif isinstance(op, Pointwise):
            self.pointwise(op, operands)
        else:
            raise NoKernel(f"{op.spelling} has no compiled step")

    def activation(self, module: nn.Module) -> None:
        if type(module) is nn.PReLU:
            return self.channels("prelu", module.weight.detach())
        function = PLAIN.get(type(module)) or (type(module) in TUNED and TUNED[type(module)](module))
        if not function:
            raise NoKernel(f"{type(module).__name__} has no compiled step")
        self.append(*function)

    def channels(self, code: str, values: Tensor, a: float = 0.0) -> None:
        """A step with a number for each channel."""
        width = matrix(self.out_value, self.out.pixel).shape[1]
        row = values.detach().to(torch.float32).reshape(1, -1).expand(1, width).contiguous()
        self.append(code, a, kind="per_channel")
        self.operands.append(row)

    @property
    def out_value(self) -> Tensor:
        assert self.out.value is not None
        return self.out.value

    def pointwise(self, op: Pointwise, operands: Sequence[Any]) -> None:
        name = op.spelling
        args = [operands[a.index] if isinstance(a, Slot) else a for a in op.args]
        kwargs = {k: operands[a.index] if isinstance(a, Slot) else a for k, a in op.kwargs.items()}
        for spelled in ("input", "self"):
            if spelled in kwargs:
                args.insert(0, kwargs.pop(spelled))
        binary = name in PRODUCTS or name in SUMS
        if binary and "other" in kwargs:
            args.append(kwargs.pop("other"))
        if name in ("clamp", "clip", "clamp_min", "clamp_max") and args[0] is CHAIN:
            return self.clamp(name, args[1:], kwargs)
        if name == "pow" and args[0] is CHAIN and args[1:] in ([2], [0.5]) and not kwargs:
            return self.append("square" if args[1] == 2 else "sqrt")
        if name == "leaky_relu" and args[0] is CHAIN and not set(kwargs) - {"negative_slope", "inplace"}:
            slope = args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
            return self.append("leaky_relu", slope)
        kwargs.pop("inplace", None)
        if name == "gelu" and kwargs.get("approximate") in ("none", "tanh"):
            return self.append("gelu_tanh" if kwargs["approximate"] == "tanh" else "gelu")
        if name in ("neg", "pos") and len(args) == 1:
            return self.append("mul", -1.0 if name == "neg" else 1.0, kind="number")
        if name in UNARY and len(args) == 1 and not kwargs:
            return self.append(*UNARY[name])
        if binary and len(args) == 2 and not set(kwargs) - {"alpha"}:
            return self.binary(name, args[0], args[1], kwargs.get("alpha", 1))
        known = binary or name in UNARY
        raise NoKernel(f"{name} has no compiled step{' with these arguments' if known else ''}")

    def clamp(self, name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        low = kwargs.get("min", args[0] if args and name != "clamp_max" else None)
        last = args[0] if args and name == "clamp_max" else args[1] if len(args) > 1 else None
        high = kwargs.get("max", last)
        if isinstance(low, (Tensor, Leaf)) or isinstance(high, (Tensor, Leaf)):
            raise NoKernel("clamp with a tensor has no compiled step")
        self.append("clamp", -INFINITY if low is None else low, INFINITY if high is None else high)

    def binary(self, name: str, first: Any, second: Any, alpha: float) -> None:
        if first is CHAIN and second is CHAIN:
            if name not in ("mul", "multiply"):
                raise NoKernel(f"{name} of a result and itself has no compiled step")
            return self.append("square")
        position, other = (0, second) if first is CHAIN else (1, first)
        if name in PRODUCTS:
            return self.operand(PRODUCTS[name][position], other, 0.0)
        if name == "add" and alpha == 1:
            position = 0  # the operands are interchangeable, and sums of this form have a quicker end
        code, sign = SUMS[name][position]
        self.operand(code, other, sign * float(alpha))

    def operand(self, code: str, value: Any, scale: float) -> None:
        """A step with a second operand: a number, a constant, or another input of the node."""
        if isinstance(value, Tensor) and value.numel() == 1 and value.dim() <= self.out_value.dim():
            value = value.item()
        if isinstance(value, numbers.Real):
            a, b = (scale, value) if code in ("add", "rsub") else (value, 0)
            return self.append(code, float(a), float(b), kind="number")
        if isinstance(value, Tensor):
            return self.constant(code, value, scale)
        if not isinstance(value, Leaf):
            raise NoKernel(f"an operand of type {type(value).__name__} has no compiled step")
        kind = relation_of(value, self.out)
        self.append(code, scale, kind=kind)
        assert value.value is not None
        self.operands.append(matrix(value.value, value.pixel))
        self.sources.append((value, "per_stream" if kind == "per_stream" else "same"))

    def constant(self, code: str, value: Tensor, scale: float) -> None:
        """A constant that differs from channel to channel, and not between pixels."""
        shape, pixel = self.out.shape, self.out.pixel
        if value.dim() > len(shape) or not value.is_floating_point():
            raise NoKernel("a constant of this form has no compiled step")
        value = value.reshape([1] * (len(shape) - value.dim()) + list(value.shape))
        if any(value.shape[d] != 1 and (pixel[d] != 1 or shape[d] == 1) for d in range(len(shape))):
            raise NoKernel("a constant that differs between pixels has no compiled step")
        width = [1 if pixel[d] != 1 else size for d, size in enumerate(shape)]
        self.channels(code, value.expand(width), scale)


def relation_of(operand: Leaf, out: Leaf) -> str:
    """How an operand's pixels and channels lie to those of the result."""
    if operand.dtype != out.dtype:
        raise NoKernel("operands of different dtypes have no compiled step")
    if operand.shape == out.shape and operand.pixel == out.pixel:
        return "per_pixel"
    if len(operand.shape) == len(out.shape):
        one_channel = all(size == (1 if out.pixel[d] == 1 else out.shape[d]) for d, size in enumerate(operand.shape))
        if one_channel and operand.pixel == out.pixel:
            return "pixel_gate"
        spatial = [d for d in range(1, len(out.pixel)) if out.pixel[d] != 1]
        gate = all(operand.shape[d] == (1 if d in spatial else out.shape[d]) for d in range(len(out.shape)))
        if gate and math.prod(operand.pixel) == out.pixel[0]:
            return "per_stream"
    raise NoKernel("an operand that is broadcast in this way has no compiled step")
