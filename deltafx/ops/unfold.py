"""Windows as columns of channels, and back.

Dense spellings: `F.unfold`, `F.fold`, `nn.Unfold`, `nn.Fold`. (`Tensor.unfold` is a view.) Mask rule: a column is a
pixel, which changes if any pixel in its window does; folded, it reaches the pixels of its window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import Call, FunctionOp, Masks, Sample, Slot, pixel_mask, to_mask, tuple_of


class Unfold(FunctionOp):
    """`[N, C, H, W]` to `[N, C * kernel, windows]`."""

    name = "unfold"
    locality = "window"
    module_types = (nn.Unfold,)
    functions: ClassVar[tuple[Callable, ...]] = (F.unfold,)
    input_rank = 4

    @staticmethod
    def signature(input, kernel_size, dilation=1, padding=0, stride=1): ...

    @staticmethod
    def samples() -> list[Sample]:
        return [
            Sample("module", nn.Unfold(3, padding=1)),
            Sample("patches", nn.Unfold((2, 3), stride=(2, 3))),
            Sample("function", Call(lambda x: F.unfold(x, (3, 2), dilation=2, padding=(1, 0), stride=2))),
            Sample("involution", Call(lambda x: F.unfold(x, 3, 1, 1).view(2, 7, 9, 11, 13).sum(2))),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> Unfold:
        return cls(F.unfold, (Slot(0), module.kernel_size, module.dilation, module.padding, module.stride))

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        mask = pixel_mask(masks[0], inputs[0].shape, channels=(1,)).float()
        return to_mask(self(mask).amax(1, keepdim=True))

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True


class Fold(FunctionOp):
    """`[N, C * kernel, windows]` to `[N, C, H, W]`: what windows have in common is added up."""

    name = "fold"
    locality = "window"
    module_types = (nn.Fold,)
    functions: ClassVar[tuple[Callable, ...]] = (F.fold,)
    input_rank = 3

    @staticmethod
    def signature(input, output_size, kernel_size, dilation=1, padding=0, stride=1): ...

    @staticmethod
    def samples() -> list[Sample]:
        return [
            Sample("patches", nn.Fold((6, 9), (2, 3), stride=(2, 3)), ((2, 6 * 5, 9),)),
            Sample("overlap", nn.Fold((5, 7), 3, padding=1), ((2, 9 * 2, 35),)),
            Sample("function", Call(lambda x: F.fold(x, (7, 9), (3, 2), 2, stride=2)), ((2, 6, 8),)),
        ]

    @classmethod
    def from_module(cls, module: nn.Module) -> Fold:
        kernel = (module.kernel_size, module.dilation, module.padding, module.stride)
        return cls(F.fold, (Slot(0), module.output_size, *kernel))

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        height, width = tuple_of(self.arguments(inputs)["kernel_size"], 2)
        mask = pixel_mask(masks[0], inputs[0].shape, channels=(1,)).float()
        return to_mask(self(mask.expand(-1, height * width, -1), *inputs[1:]))

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True
