"""Pooling with a window: maximum, average, and their adaptive forms, in one, two and three dimensions.

Dense spellings: `nn.MaxPool*d`, `nn.AvgPool*d`, `nn.AdaptiveAvgPool*d`, `nn.AdaptiveMaxPool*d` and their functions.
Mask rule: the window's maximum; adaptive windows are those of the adaptive maximum, and a pooling to size 1 (a global
one) makes the spatial dimensions part of its single pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import FRAME, Call, FunctionOp, Masks, Sample, Slot, by_type, pixel_mask, to_mask, tuple_of
from deltafx.ops.window import window_mask

ADAPTIVE_MAX: dict[int, Callable] = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def spatial_rank(function: Callable) -> int:
    """The 2 of `max_pool2d`."""
    return int(function.__name__[-2])


class Pool(FunctionOp):
    """What the window poolings share: a batch dimension, and channels in dimension 1."""

    locality = "window"

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        super().__init__(function, args, kwargs)
        self.rank = spatial_rank(function)
        self.input_rank = self.rank + 2
        self.name = function.__name__

    def refusal(self, inputs: Sequence[Any]) -> str | None:
        if self.arguments(inputs).get("return_indices"):
            return "it returns the indices of the maxima"
        return super().refusal(inputs)


class MaxPool(Pool):
    """Maximum over a window."""

    name = "max_pool"
    module_types = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    functions: ClassVar[tuple[Callable, ...]] = (
        F.max_pool1d,
        F.max_pool2d,
        F.max_pool3d,
        torch.max_pool1d,
        torch.max_pool2d,
        torch.max_pool3d,
    )

    @staticmethod
    def signature(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False): ...

    @staticmethod
    def samples() -> list[Sample]:
        return [
            Sample("2x2", nn.MaxPool2d(2)),
            Sample("3x3", nn.MaxPool2d(3, stride=2, padding=1)),
            Sample("ceil", nn.MaxPool2d(3, stride=2, ceil_mode=True)),
            Sample("ceil_padded", nn.MaxPool2d((2, 4), stride=(3, 4), padding=(1, 2), ceil_mode=True)),
            Sample("dilation", nn.MaxPool2d((3, 2), stride=1, padding=(1, 0), dilation=(2, 3))),
            Sample("1d", nn.MaxPool1d(3, stride=2, padding=1, ceil_mode=True), ((2, 7, 13),)),
            Sample("3d", nn.MaxPool3d((1, 3, 2), stride=(1, 2, 2)), ((2, 3, 4, 7, 6),)),
            Sample("function", Call(lambda x: F.max_pool2d(x, 5, 1, 2))),
            Sample("torch", Call(lambda x: torch.max_pool2d(x, (3, 2), stride=(2, 1), dilation=2))),
            Sample("channels_of_vectors", Call(lambda x: F.max_pool1d(x.flatten(2), 7)), (FRAME,)),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> MaxPool:
        assert isinstance(module, cls.module_types)
        function = by_type(module, dict(zip(cls.module_types, cls.functions, strict=False)))
        return cls(function, (Slot(0), module.kernel_size), {
            "stride": module.stride, "padding": module.padding, "dilation": module.dilation,
            "ceil_mode": module.ceil_mode, "return_indices": module.return_indices,
        })  # fmt: skip

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        call = self.arguments(inputs)
        return pooled(masks, inputs, output, self.rank, call, call["dilation"])


class AvgPool(Pool):
    """Mean over a window."""

    name = "avg_pool"
    module_types = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
    functions: ClassVar[tuple[Callable, ...]] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)

    @staticmethod
    def signature(
        input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ): ...

    @staticmethod
    def samples() -> list[Sample]:
        return [
            Sample("3x3", nn.AvgPool2d(3, stride=2, padding=1)),
            Sample("without_padding", nn.AvgPool2d((3, 5), stride=1, padding=(1, 2), count_include_pad=False)),
            Sample("ceil", nn.AvgPool2d(2, ceil_mode=True)),
            Sample("ceil_padded", nn.AvgPool2d(4, stride=3, padding=2, ceil_mode=True, divisor_override=5)),
            Sample("1d", nn.AvgPool1d(3, stride=2, padding=1), ((2, 7, 13),)),
            Sample("3d", nn.AvgPool3d((1, 3, 2), stride=(1, 2, 2)), ((2, 3, 4, 7, 6),)),
            Sample("function", Call(lambda x: F.avg_pool2d(x, 3, count_include_pad=False, padding=1))),
            Sample("global", Call(lambda x: F.avg_pool2d(x, x.shape[2:]))),
            Sample("global_rows", Call(lambda x: F.avg_pool2d(x, kernel_size=(x.size(2), 1)))),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> AvgPool:
        assert isinstance(module, cls.module_types)
        function = by_type(module, dict(zip(cls.module_types, cls.functions, strict=False)))
        options = {"divisor_override": module.divisor_override} if hasattr(module, "divisor_override") else {}
        return cls(function, (Slot(0), module.kernel_size), {
            "stride": module.stride, "padding": module.padding, "ceil_mode": module.ceil_mode,
            "count_include_pad": module.count_include_pad, **options,
        })  # fmt: skip

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        return pooled(masks, inputs, output, self.rank, self.arguments(inputs), 1)

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class AdaptivePool(Pool):
    """Mean or maximum over windows that divide the input into `output_size` parts."""

    name = "adaptive_pool"
    locality = "window"
    module_types = (
        nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
        nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    )  # fmt: skip
    functions: ClassVar[tuple[Callable, ...]] = (
        F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
        F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
    )  # fmt: skip

    @staticmethod
    def signature(input, output_size, return_indices=False): ...

    @staticmethod
    def samples() -> list[Sample]:
        return [
            Sample("global", nn.AdaptiveAvgPool2d(1)),
            Sample("global_max", nn.AdaptiveMaxPool2d((1, 1))),
            Sample("avg", nn.AdaptiveAvgPool2d((3, 5))),
            Sample("max", nn.AdaptiveMaxPool2d(4)),
            Sample("one_axis", nn.AdaptiveAvgPool2d((None, 1))),
            Sample("larger", nn.AdaptiveAvgPool2d((17, 7))),
            Sample("avg1d", nn.AdaptiveAvgPool1d(5), ((2, 7, 13),)),
            Sample("max1d", nn.AdaptiveMaxPool1d(1), ((2, 7, 13),)),
            Sample("avg3d", nn.AdaptiveAvgPool3d((2, 1, 3)), ((2, 3, 4, 5, 7),)),
            Sample("max3d", nn.AdaptiveMaxPool3d(2), ((2, 3, 4, 5, 7),)),
            Sample("function", Call(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1))),
            Sample("function_max", Call(lambda x: F.adaptive_max_pool2d(x, output_size=(2, 3)))),
        ]

    def __init__(self, function: Callable, args: Sequence[Any] = (Slot(0),), kwargs: dict[str, Any] | None = None):
        super().__init__(function, args, kwargs)
        size = self.arguments((None,) * 9)["output_size"]
        self.locality = "global" if tuple_of(size, self.rank) == (1,) * self.rank else "window"

    @classmethod
    def from_module(cls, module: nn.Module) -> AdaptivePool:
        assert isinstance(module, cls.module_types)
        function = by_type(module, dict(zip(cls.module_types, cls.functions, strict=True)))
        options = {"return_indices": module.return_indices} if hasattr(module, "return_indices") else {}
        return cls(function, (Slot(0), module.output_size), options)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        mask = pixel_mask(masks[0], inputs[0].shape, channels=(1,)).float()
        return to_mask(ADAPTIVE_MAX[self.rank](mask, tuple(output.shape[2:])))

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return "avg" in self.name


def pooled(
    masks: Masks, inputs: Sequence[Any], output: Tensor, rank: int, call: dict[str, Any], dilation: Any
) -> Tensor:
    assert masks[0] is not None
    kernel = tuple_of(call["kernel_size"], rank)
    stride = tuple_of(call["stride"], rank) if call["stride"] else kernel
    padding = [(p, p) for p in tuple_of(call["padding"], rank)]
    dilation = tuple_of(dilation, rank)
    return window_mask(masks[0], inputs[0].shape, output.shape, kernel, stride, dilation, padding)
