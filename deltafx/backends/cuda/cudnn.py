"""Convolutions that cuDNN computes, and ends with bias, residual and activation by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deltafx import _cuda
from deltafx.backends.cuda.ending import Ending
from deltafx.backends.cuda.engines import Engine, Way
from deltafx.backends.recipe import Product
from deltafx.ops import Conv, ConvTranspose

cudnn_convolution = torch.ops.aten.cudnn_convolution.out
cudnn_convolution_transpose = torch.ops.aten.cudnn_convolution_transpose.out  # takes memory, and copies

LEAST_CHANNELS = 3  # with fewer, strides do not tell in which order the dimensions of a tensor lie
HALVES = (torch.float16, torch.bfloat16)
ALIGNMENT = 16  # bytes, of what it reads and writes


@dataclass(frozen=True, eq=False)
class Convolution:
    """As cuDNN takes it: `[N, C, H, W]`, channels last. It chooses how, as it does for every other network.

    `output_padding`: of a transposed one, None for others.
    """

    x: Tensor
    weight: Tensor
    padding: list[int]
    stride: list[int]
    dilation: list[int]
    groups: int
    allow_tf32: bool
    output_padding: list[int] | None = None

    def widened(self, channels: int) -> Convolution:
        """The same with so many output channels, those that are added being 0."""
        dim = 1 if self.is_transposed else 0
        more = [0, 0] * (self.weight.dim() - 1 - dim) + [0, channels - self.weight.shape[dim]]
        weight = torch.nn.functional.pad(self.weight, more)
        return replace(self, weight=weight.contiguous(memory_format=torch.channels_last))

    @property
    def is_transposed(self) -> bool:
        return self.output_padding is not None

    @classmethod
    def of(cls, p: Product, filled_up: Tensor, allow_tf32: bool) -> Convolution | None:
        """None where cuDNN has none. `filled_up` is the input's matrix, with what its buffer is filled up with."""
        op: Any = p.whole
        x = p.x.value
        assert x is not None
        if type(op) not in (Conv, ConvTranspose) or op.rank != 2 or x.shape[1] < LEAST_CHANNELS:
            return None
        is_transposed = isinstance(op, ConvTranspose)
        if is_transposed and (op.groups != 1 or not ends_itself(x.dtype, allow_tf32)):
            return None  # only what cuDNN ends by itself is written in place
        if not is_transposed and (op.padding_mode != "constant" or any(a != b for a, b in op.padding)):
            return None
        weight = op.weight.detach()
        if op.groups == 1:
            streams, channels, rows, columns = x.shape
            x = filled_up.unflatten(0, (streams, rows, columns)).permute(0, 3, 1, 2)
            more = [0, x.shape[1] - channels]
            weight = torch.nn.functional.pad(weight, [0] * 4 + ([0, 0, *more] if is_transposed else more))
        weight = weight.to(x.device, x.dtype).contiguous(memory_format=torch.channels_last)
        padding = list(op.padding) if is_transposed else [before for before, _ in op.padding]
        return cls(
            x, weight, padding, list(op.stride), list(op.dilation), op.groups, allow_tf32,
            list(op.output_padding) if is_transposed else None,
        )  # fmt: skip

    def __call__(self, into: Tensor) -> None:
        """Write the whole result, without bias."""
        benchmark = torch.backends.cudnn.benchmark
        operator = cudnn_convolution_transpose if self.is_transposed else cudnn_convolution
        padding = [self.padding, *([self.output_padding] if self.is_transposed else [])]
        shape = (*padding, self.stride, self.dilation, self.groups)
        operator(self.x, self.weight, *shape, benchmark, True, self.allow_tf32, out=into)

    def fused(self, ending: Ending, into: Tensor, known: dict[str, Engine]) -> FusedConvolution | None:
        """What writes the whole result with its ending; None where cuDNN has none. Those of one form are one."""
        tensors = [self.x, self.weight, into, *([ending.residual] if ending.residual is not None else [])]
        ends = self.groups == 1 and ends_itself(self.x.dtype, self.allow_tf32)
        if not ends or not all(map(is_aligned, tensors)):
            return None
        form = {
            "dtype": str(self.x.dtype).removeprefix("torch."), "transposed": self.is_transposed,
            "x": list(self.x.shape), "x_strides": list(self.x.stride()),
            "weight": list(self.weight.shape), "w_strides": strides_of(self.weight),
            "y": list(into.shape), "y_strides": list(into.stride()),
            "residual_strides": None if ending.residual is None else list(ending.residual.stride()),
            "padding": self.padding, "stride": self.stride, "dilation": self.dilation, "ending": ending.operations,
        }  # fmt: skip
        if str(form) not in known:
            known[str(form)] = Engine(form)
        engine = known[str(form)]
        return FusedConvolution(self, ending, engine) if engine.ways else None


class FusedConvolution:
    """A convolution with its ending, on its tensors."""

    def __init__(self, convolution: Convolution, ending: Ending, engine: Engine):
        self.convolution, self.ending, self.engine = convolution, ending, engine
        self.addresses = {
            name: 0 if tensor is None else tensor.data_ptr()
            for name, tensor in {
                "x": convolution.x, "weight": convolution.weight, "bias": ending.bias, "residual": ending.residual,
            }.items()
        }  # fmt: skip

    def settle(self, into: Tensor, otherwise: Callable[[], None]) -> bool:
        """Whether there is a way to compute it that beats `otherwise`, which is chosen."""
        return self.engine.settle(lambda way: self.run(way, into, workspace_of(way, into.device)), otherwise)

    def workspace(self, device: torch.device) -> Tensor:
        return workspace_of(self.way, device)

    def __call__(self, into: Tensor, workspace: Tensor) -> None:
        self.run(self.way, into, workspace)

    @property
    def way(self) -> Way:
        """Once it is settled."""
        assert self.engine.chosen is not None
        return self.engine.chosen

    def run(self, way: Way, into: Tensor, workspace: Tensor) -> None:
        way.run(**self.addresses, y=into.data_ptr(), workspace=workspace.data_ptr())


def workspace_of(way: Way, device: torch.device) -> Tensor:
    return torch.empty(max(1, way.workspace), dtype=torch.uint8, device=device)


def ends_itself(dtype: torch.dtype, allow_tf32: bool) -> bool:
    """Whether cuDNN applies what follows a convolution of this dtype: it does so on tensor cores."""
    return _cuda.has_cudnn and (dtype in HALVES or (dtype == torch.float32 and allow_tf32))


def is_aligned(tensor: Tensor) -> bool:
    places = [tensor.data_ptr(), *(step * tensor.itemsize for step in tensor.stride() if step != 1)]
    return all(place % ALIGNMENT == 0 for place in places)


def strides_of(tensor: Tensor) -> list[int]:
    """With channels last, also where a dimension has one element, whose stride PyTorch leaves open."""
    _, c, h, w = tensor.shape
    return [h * w * c, 1, w * c, c]
