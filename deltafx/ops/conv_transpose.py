"""Transposed convolution in one, two and three dimensions.

Dense spellings: `nn.ConvTranspose1d/2d/3d`; `F.conv_transpose*d` with a constant weight.
Mask rule: an input pixel reaches the outputs its kernel is laid over, so the mask goes through the same transposed
convolution with a kernel of ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import Call, Masks, Op, Sample, borrow, pixel_mask, seeded, to_mask, tuple_of
from deltafx.ops.conv import fold_output, one_channel_more, pairs_channels

TRANSPOSED: dict[int, Callable] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class ConvTranspose(Op):
    """Transposed convolution with weight `[C_in, C_out / groups, *kernel]` and bias `[C_out]` or None."""

    name = "conv_transpose"
    locality = "window"
    module_types = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    functions = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    bias: nn.Parameter | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int],
        groups: int,
        dilation: Sequence[int],
    ):
        super().__init__()
        self.weight = borrow(weight)
        self.register_parameter("bias", None if bias is None else borrow(bias))
        self.stride, self.padding, self.output_padding = tuple(stride), tuple(padding), tuple(output_padding)
        self.groups, self.dilation = groups, tuple(dilation)
        self.rank = weight.dim() - 2
        self.input_rank = weight.dim()
        self.name = f"conv_transpose{self.rank}d"

    @classmethod
    def from_module(cls, module: nn.Module) -> ConvTranspose:
        assert isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d))
        return cls.from_weights(
            module.weight, module.bias, module.stride, module.padding, module.output_padding, module.groups,
            module.dilation,
        )  # fmt: skip

    @classmethod
    def from_weights(
        cls, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
        groups: int = 1, dilation: Any = 1,
    ) -> ConvTranspose:  # fmt: skip
        """The operator of `F.conv_transpose*d(x, weight, ...)` with a constant weight."""
        rank = weight.dim() - 2
        return cls(
            weight, bias, tuple_of(stride, rank), tuple_of(padding, rank), tuple_of(output_padding, rank), groups,
            tuple_of(dilation, rank),
        )  # fmt: skip

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        def two(name: str, *args: Any, **kwargs: Any) -> Sample:
            return Sample(name, nn.ConvTranspose2d(10, *args, **kwargs), ((2, 10, 5, 7),))

        weight = torch.randn(7, 5, 3, 3)
        return [
            two("2x2", 7, 2, stride=2),
            two("3x3", 7, 3, padding=1),
            two("4x4", 7, 4, stride=2, padding=1, bias=False),
            two("output_padding", 7, 3, stride=2, padding=1, output_padding=1),
            two("output_padding_2_0", 7, 3, stride=(3, 1), padding=(0, 1), output_padding=(2, 0)),
            two("stride_over_kernel", 7, 1, stride=3),
            two("dilation", 7, 3, stride=2, padding=2, dilation=2),
            two("groups", 15, 3, stride=2, groups=5),
            two("depthwise", 10, 4, stride=2, padding=1, groups=10),
            two("groups_dilation", 5, (3, 2), stride=(1, 2), dilation=(2, 1), groups=5, output_padding=(0, 1)),
            Sample("1d", nn.ConvTranspose1d(7, 5, 4, stride=2, padding=1), ((2, 7, 13),)),
            Sample("3d", nn.ConvTranspose3d(3, 5, 2, stride=(1, 2, 2)), ((2, 3, 3, 5, 4),)),
            Sample("function", Call(lambda x: F.conv_transpose2d(x, weight, stride=2, output_padding=1))),
        ]

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        if pairs_channels(weight, per_group=weight.shape[0] // self.groups):
            x = one_channel_more(x, x.dim() - self.rank - 1, self.groups)
            weight = one_channel_more(weight, 0, self.groups)
        return TRANSPOSED[self.rank](
            x, weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        mask = pixel_mask(masks[0], inputs[0].shape, channels=(1,)).float()
        ones = torch.ones(1, 1, *self.weight.shape[2:], device=mask.device)
        return to_mask(
            TRANSPOSED[self.rank](mask, ones, None, self.stride, self.padding, self.output_padding, 1, self.dilation)
        )

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True

    def scaled(self, scale: Tensor, shift: Tensor) -> ConvTranspose | None:
        """The transposed convolution followed by `* scale + shift` per output channel; None with groups."""
        if self.groups != 1:
            return None
        weight, bias = fold_output(self.weight, self.bias, scale, shift, channel=1)
        return ConvTranspose(weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)

    def extra_repr(self) -> str:
        channels = f"{self.weight.shape[0]}, {self.weight.shape[1] * self.groups}"
        return f"{channels}, kernel={tuple(self.weight.shape[2:])}, stride={self.stride}, padding={self.padding}"
