"""Leaf modules of other libraries, known by the names of their classes, so that none has to be installed.

Dense spellings: timm's `Conv2dSame`, `MaxPool2dSame` and `AvgPool2dSame`, which pad as TensorFlow's "SAME" does: by
what the size of the frame asks for, which `torch.fx` cannot trace. Mask rule: that of the operator on the padded input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import Masks, Op, Sample, Slot, pixel_mask, seeded, tuple_of
from deltafx.ops.conv import Conv
from deltafx.ops.pool import AvgPool, MaxPool


class SamePadded(Op):
    """A two-dimensional operator with a window, padded with `value` so that it gives `ceil(size / stride)` pixels."""

    name = "same_padded"
    locality = "window"
    input_rank = 4
    module_names = (
        "timm.layers.conv2d_same.Conv2dSame",
        "timm.layers.pool2d_same.MaxPool2dSame",
        "timm.layers.pool2d_same.AvgPool2dSame",
        "timm.models.layers.conv2d_same.Conv2dSame",  # before timm 0.9
        "timm.models.layers.pool2d_same.MaxPool2dSame",
        "timm.models.layers.pool2d_same.AvgPool2dSame",
    )

    def __init__(self, inner: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], value: float):
        super().__init__()
        self.inner = inner
        self.kernel, self.stride, self.dilation, self.value = tuple(kernel), tuple(stride), tuple(dilation), value
        self.name = inner.name

    @classmethod
    def from_module(cls, module: nn.Module) -> SamePadded:
        kernel, stride = tuple_of(module.kernel_size, 2), tuple_of(module.stride, 2)
        dilation = tuple_of(getattr(module, "dilation", 1), 2)
        if isinstance(module, nn.Conv2d):
            conv = Conv.build(module.weight, module.bias, stride, 0, dilation, module.groups, "constant")
            return cls(conv, kernel, stride, dilation, 0.0)
        if isinstance(module, nn.MaxPool2d):
            options = {"stride": stride, "dilation": dilation, "ceil_mode": module.ceil_mode}
            return cls(MaxPool(F.max_pool2d, (Slot(0), kernel), options), kernel, stride, dilation, -math.inf)
        assert isinstance(module, nn.AvgPool2d)
        options = {"stride": stride, "ceil_mode": module.ceil_mode, "count_include_pad": module.count_include_pad}
        return cls(AvgPool(F.avg_pool2d, (Slot(0), kernel), options), kernel, stride, dilation, 0.0)

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        conv, pool = stand_in("conv2d_same.Conv2dSame", nn.Conv2d), stand_in("pool2d_same.MaxPool2dSame", nn.MaxPool2d)
        mean = stand_in("pool2d_same.AvgPool2dSame", nn.AvgPool2d)
        return [
            Sample("conv", conv(7, 5, 3, stride=2)),
            Sample("conv_even_size", conv(7, 5, 3, stride=2), ((2, 7, 12, 10),)),
            Sample("conv_5x2", conv(7, 14, (5, 2), stride=(2, 3), dilation=(1, 2), groups=7, bias=False)),
            Sample("conv_stride_over_kernel", conv(7, 5, 1, stride=3)),
            Sample("max_pool", pool((3, 3), (2, 2), (0, 0))),
            Sample("max_pool_even_size", pool((3, 2), (2, 2), (0, 0), (2, 1)), ((2, 7, 12, 10),)),
            Sample("avg_pool", mean((3, 3), (2, 2))),
        ]

    def pads(self, size: Sequence[int]) -> list[int]:
        """What `F.pad` adds to a frame of this size: the odd pixel comes after it."""
        result = []
        for length, k, s, d in reversed(list(zip(size, self.kernel, self.stride, self.dilation, strict=True))):
            total = max((math.ceil(length / s) - 1) * s + (k - 1) * d + 1 - length, 0)
            result += [total // 2, total - total // 2]
        return result

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.pad(x, self.pads(x.shape[2:]), value=self.value))

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        pads = self.pads(inputs[0].shape[2:])
        mask = F.pad(pixel_mask(masks[0], inputs[0].shape, channels=(1,)), pads)
        padded = torch.empty((*inputs[0].shape[:2], *mask.shape[2:]), device="meta")
        return self.inner.candidates([mask], [padded], output)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return self.inner.is_linear(deltas)

    def scaled(self, scale: Tensor, shift: Tensor) -> SamePadded:
        """The operator, a convolution, followed by `* scale + shift` per output channel."""
        return SamePadded(self.inner.scaled(scale, shift), self.kernel, self.stride, self.dilation, self.value)

    def extra_repr(self) -> str:
        return "padding='same' for every frame size"


def stand_in(name: str, base: type[nn.Module]) -> Any:
    """A class that is to be taken for the one of this name in timm."""

    def forward(self: Any, x: Tensor) -> Tensor:
        value = -math.inf if base is nn.MaxPool2d else 0.0
        for d, k, s, dilation in zip(
            (2, 3), tuple_of(self.kernel_size, 2), tuple_of(self.stride, 2), tuple_of(getattr(self, "dilation", 1), 2)
        ):
            missing = max((-(-x.shape[d] // s) - 1) * s + (k - 1) * dilation + 1 - x.shape[d], 0)
            pad = (missing // 2, missing - missing // 2)
            x = F.pad(x, (0, 0, *pad) if d == 2 else pad, value=value)
        return base.forward(self, x)

    module, _, kind = f"timm.layers.{name}".rpartition(".")
    return type(kind, (base,), {"forward": forward, "__module__": module})
