"""The dense form of a node: every pixel is computed, by cuDNN where there is a convolution, into the same buffer.

It looks at no mask. What runs the node sparsely would write the same, but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx import _cuda
from deltafx.backends.cuda.ending import Ending, ending_of
from deltafx.backends.matrix import NoKernel, matrix
from deltafx.backends.recipe import Product, Recipe
from deltafx.ops import Conv
from deltafx.state import Leaf

if TYPE_CHECKING:
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda
cudnn_convolution = torch.ops.aten.cudnn_convolution.out

LEAST_CHANNELS = 3  # with fewer, strides do not tell in which order the dimensions of a tensor lie
FUSED = (torch.float16, torch.bfloat16)  # dtypes of convolutions that cuDNN ends by itself
ALIGNMENT = 16  # bytes, of what it reads and writes


@dataclass(frozen=True, eq=False)
class Convolution:
    """As cuDNN takes it: `[N, C, H, W]`, channels last. It chooses how, as it does for every other network."""

    x: Tensor
    weight: Tensor
    padding: list[int]
    stride: list[int]
    dilation: list[int]
    groups: int
    allow_tf32: bool

    @classmethod
    def of(cls, p: Product, filled_up: Tensor, allow_tf32: bool) -> Convolution | None:
        """None where cuDNN has none. `filled_up` is the input's matrix, with what its buffer is filled up with."""
        op, x = p.whole, p.x.value
        assert x is not None
        if type(op) is not Conv or op.rank != 2 or op.padding_mode != "constant" or x.shape[1] < LEAST_CHANNELS:
            return None
        if any(before != after for before, after in op.padding):
            return None
        weight = op.weight.detach()
        if op.groups == 1:
            streams, channels, rows, columns = x.shape
            x = filled_up.unflatten(0, (streams, rows, columns)).permute(0, 3, 1, 2)
            weight = torch.nn.functional.pad(weight, (0, 0, 0, 0, 0, x.shape[1] - channels))
        weight = weight.to(x.device, x.dtype).contiguous(memory_format=torch.channels_last)
        padding = [before for before, _ in op.padding]
        return cls(x, weight, padding, list(op.stride), list(op.dilation), op.groups, allow_tf32)

    def __call__(self, into: Tensor) -> None:
        """Write the whole result, without bias."""
        benchmark = torch.backends.cudnn.benchmark
        shape = (self.padding, self.stride, self.dilation, self.groups)
        cudnn_convolution(self.x, self.weight, *shape, benchmark, True, self.allow_tf32, out=into)

    def fused(self, ending: Ending, into: Tensor) -> Any:
        """What writes the whole result with its ending; None where cuDNN has none."""
        tensors = [self.x, self.weight, into, *([ending.residual] if ending.residual is not None else [])]
        if not _cuda.has_cudnn or self.groups != 1 or self.x.dtype not in FUSED or not all(map(is_aligned, tensors)):
            return None
        try:
            return _cuda.FusedConvolution(
                bfloat16=self.x.dtype == torch.bfloat16,
                x=list(self.x.shape), x_strides=list(self.x.stride()),
                weight=list(self.weight.shape), w_strides=strides_of(self.weight),
                y=list(into.shape), y_strides=strides_of(into),
                residual_strides=None if ending.residual is None else list(ending.residual.stride()),
                bias=ending.bias is not None, padding=self.padding, stride=self.stride, dilation=self.dilation,
                cut=ending.cut, highest=ending.highest,
            )  # fmt: skip
        except RuntimeError:  # its message is that no engine has this one
            return None


def is_aligned(tensor: Tensor) -> bool:
    places = [tensor.data_ptr(), *(step * tensor.itemsize for step in tensor.stride() if step != 1)]
    return all(place % ALIGNMENT == 0 for place in places)


def strides_of(tensor: Tensor) -> list[int]:
    """With channels last, also where a dimension has one element, whose stride PyTorch leaves open."""
    _, c, h, w = tensor.shape
    return [h * w * c, 1, w * c, c]


class Scratch:
    """What nodes of a plan need beside their buffers while they run; as much as the largest needs."""

    def __init__(self) -> None:
        self.bytes = 0
        self.buffer: Tensor | None = None
        self.workspace: Tensor | None = None

    @classmethod
    def of(cls, plan: Plan) -> Scratch:
        return plan.scratch.setdefault("dense", cls())

    def like(self, value: Tensor) -> Tensor:
        """A tensor `[N, C, H, W]` whose pixels lie side by side, once all nodes are known."""
        if self.buffer is None:
            self.buffer = torch.empty(self.bytes, dtype=torch.uint8, device=value.device)
        n, c, h, w = value.shape
        part = self.buffer[: value.numel() * value.dtype.itemsize]
        return part.view(value.dtype).view(n, h, w, c).permute(0, 3, 1, 2)

    def reserve(self, count: int, device: torch.device) -> None:
        """A workspace of so many bytes, before anything that uses it is captured."""
        if self.workspace is None or len(self.workspace) < count:
            self.workspace = torch.empty(count, dtype=torch.uint8, device=device)


class DenseForm:
    """Runs one node of one plan densely."""

    def __init__(self, recipe: Recipe, leaf: Leaf, out: Tensor, plan: Plan):
        assert leaf.value is not None
        self.value, self.pixel, self.out = leaf.value, leaf.pixel, out
        self.steps, self.streams = recipe.steps.arguments, leaf.pixel[0]
        self.convolution: Convolution | None = None
        self.ending: Ending | None = None
        self.fused: Any = None
        self.apart = False
        self.scratch = Scratch.of(plan)
        self.operator, self.arguments = operators.finish.default, recipe.arguments[:1]
        if recipe.operator == "pool":
            self.operator, self.arguments = operators.pool_all.default, recipe.arguments
        elif recipe.dense is not None:
            assert isinstance(recipe.dense, Convolution)
            self.convolution, self.arguments = recipe.dense, (out,)
            if self.value.is_contiguous(memory_format=torch.channels_last):
                self.ending = ending_of(recipe.steps, leaf)
            else:
                self.apart = True  # the result passes through scratch
                self.scratch.bytes = max(self.scratch.bytes, leaf.shape.numel() * leaf.dtype.itemsize)
        elif recipe.operator != "copy":
            raise NoKernel("it has no dense form")
        self.arguments = tuple(x.to(out.device) if isinstance(x, Tensor) else x for x in self.arguments)

    def prepare(self) -> None:
        """Before a capture: cuDNN settles how it computes this, and memory is taken."""
        if self.convolution is None:
            return
        if self.apart:
            self.arguments = (matrix(self.scratch.like(self.value), self.pixel),)
        if self.ending is not None and self.fused is None:
            self.fused = self.convolution.fused(self.ending, self.value)
        if self.fused is not None:
            self.scratch.reserve(self.fused.workspace, self.value.device)
            self.run_fused(torch.empty_like(self.value))
        else:
            self.convolution(torch.empty_like(self.scratch.like(self.value) if self.apart else self.value))

    def run_fused(self, into: Tensor) -> None:
        convolution, ending, workspace = self.convolution, self.ending, self.scratch.workspace
        assert convolution is not None
        assert ending is not None
        assert workspace is not None
        bias, residual = (0 if x is None else x.data_ptr() for x in (ending.bias, ending.residual))
        self.fused.run(
            x=convolution.x.data_ptr(), weight=convolution.weight.data_ptr(), bias=bias, residual=residual,
            y=into.data_ptr(), workspace=workspace.data_ptr(),
        )  # fmt: skip

    def __call__(self) -> None:
        if self.fused is not None:
            return self.run_fused(self.value)
        if self.convolution is not None:
            self.convolution(self.scratch.like(self.value) if self.apart else self.value)
            if not self.apart and not self.steps[1]:
                return
        self.operator(*self.arguments, *self.steps, self.streams, self.out)


def dense_form(recipe: Recipe, leaf: Leaf, out: Tensor, plan: Plan) -> DenseForm | None:
    """That of a node, or None: its sparse kernel is as fast with every pixel, or it is no part of a network's work."""
    try:
        return DenseForm(recipe, leaf, out, plan)
    except NoKernel:
        return None
