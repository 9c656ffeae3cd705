"""Convolution in one, two and three dimensions, in every configuration.

Dense spellings: `nn.Conv1d/2d/3d` with any kernel, stride, dilation, groups, padding (a number for each side, "same",
"valid") and padding mode; `F.conv*` with a constant weight. Mask rule: the window's maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltafx.ops.base import Call, Masks, Op, Sample, borrow, seeded, tuple_of
from deltafx.ops.window import window_mask

CONVOLUTION: dict[int, Callable] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Conv(Op):
    """Convolution with weight `[C_out, C_in / groups, *kernel]` and bias `[C_out]` or None.

    `padding` is (before, after) for each spatial dimension, filled according to `padding_mode`
    ("constant", "reflect", "replicate" or "circular").
    """

    name = "conv"
    locality = "window"
    module_types = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    functions = (F.conv1d, F.conv2d, F.conv3d)
    bias: nn.Parameter | None
    rank_of: ClassVar[dict[Callable, int]] = {function: rank for rank, function in CONVOLUTION.items()}

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[tuple[int, int]],
        dilation: Sequence[int],
        groups: int,
        padding_mode: str = "constant",
    ):
        super().__init__()
        self.weight = borrow(weight)
        self.register_parameter("bias", None if bias is None else borrow(bias))
        self.stride, self.dilation, self.groups = tuple(stride), tuple(dilation), groups
        self.padding = tuple(padding)
        self.padding_mode = padding_mode
        self.rank = weight.dim() - 2
        self.input_rank = weight.dim()
        self.name = f"conv{self.rank}d"

    @classmethod
    def from_module(cls, module: nn.Module) -> Conv:
        assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        return cls.build(
            module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups, mode
        )

    @classmethod
    def from_weights(
        cls, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> Conv:  # fmt: skip
        """The operator of `F.conv*d(x, weight, ...)` with a constant weight."""
        return cls.build(weight, bias, stride, padding, dilation, groups, "constant")

    @classmethod
    def build(
        cls, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int, mode: str
    ) -> Conv:
        rank = weight.dim() - 2
        dilation = tuple_of(dilation, rank)
        if isinstance(padding, str):
            total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
            pairs = tuple((t // 2, t - t // 2) for t in total)
        else:
            pairs = tuple((p, p) for p in tuple_of(padding, rank))
        return cls(weight, bias, tuple_of(stride, rank), pairs, dilation, groups, mode)

    @staticmethod
    @seeded
    def samples() -> list[Sample]:
        def two(name: str, *args: Any, frame: tuple[int, ...] = (2, 10, 11, 13), **kwargs: Any) -> Sample:
            return Sample(name, nn.Conv2d(10, *args, **kwargs), (frame,))

        weight, bias = torch.randn(5, 7, 3, 2), torch.randn(5)
        return [
            two("pointwise", 7, 1, bias=False),
            two("3x3", 7, 3, padding=1),
            two("no_padding", 7, 3),
            two("1x7", 7, (1, 7), padding=(0, 3)),
            two("7x1", 7, (7, 1), padding=(3, 0)),
            two("even_kernel", 7, 4, padding=(1, 2)),
            two("large_kernel", 10, 31, padding=15, groups=10),
            two("stride", 7, 3, stride=2, padding=1),
            two("stride_2_3", 7, (3, 5), stride=(2, 3), padding=(1, 2)),
            two("stride_over_kernel", 7, 1, stride=3),
            two("dilation", 7, 3, padding=2, dilation=2),
            two("dilation_1_3", 7, 3, padding=(1, 3), dilation=(1, 3)),
            two("groups", 15, 3, padding=1, groups=5),
            two("depthwise", 10, 3, padding=1, groups=10),
            two("depthwise_multiplier", 30, 5, padding=2, stride=2, groups=10),
            two("same", 7, 5, padding="same", dilation=2),
            two("same_uneven", 7, (4, 2), padding="same", dilation=(1, 3)),
            two("valid", 7, 3, padding="valid"),
            two("reflect", 7, 3, padding=(2, 1), padding_mode="reflect"),
            two("replicate", 7, 3, padding=2, stride=2, padding_mode="replicate"),
            two("circular", 7, 5, padding=(2, 3), padding_mode="circular"),
            two("circular_same", 7, 4, padding="same", padding_mode="circular"),
            two("one_pixel", 7, 3, padding=1, frame=(2, 10, 1, 1)),
            Sample("1d", nn.Conv1d(7, 5, 3, stride=2, padding=1), ((2, 7, 13),)),
            Sample("1d_reflect", nn.Conv1d(7, 5, 3, padding=1, padding_mode="reflect"), ((2, 7, 13),)),
            Sample("3d", nn.Conv3d(3, 5, (1, 3, 3), stride=(1, 2, 1), padding=(0, 1, 1)), ((2, 3, 4, 7, 5),)),
            Sample("3d_replicate", nn.Conv3d(3, 5, 3, padding=1, padding_mode="replicate"), ((2, 3, 4, 7, 5),)),
            Sample("function", Call(lambda x: F.conv2d(x, weight, bias, stride=2, padding=(1, 0), dilation=2))),
            Sample("function_same", Call(lambda x: F.conv2d(x, weight, padding="same"))),
        ]

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        symmetric = all(before == after for before, after in self.padding)
        if symmetric and self.padding_mode == "constant":
            padding = tuple(before for before, _ in self.padding)
        else:
            x = F.pad(x, [p for pair in reversed(self.padding) for p in pair], mode=self.padding_mode)
            padding = (0,) * self.rank
        convolution = CONVOLUTION[self.rank]
        weight: Tensor = self.weight
        depthwise = weight.shape[1] == 1 and weight.shape[0] == self.groups > 1  # has kernels of its own
        if pairs_channels(weight, per_group=weight.shape[1]) and not depthwise:
            x, weight = one_channel_more(x, x.dim() - self.rank - 1, self.groups), one_channel_more(weight, 1, 1)
        return convolution(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def candidates(self, masks: Masks, inputs: Sequence[Any], output: Tensor) -> Tensor:
        assert masks[0] is not None
        return window_mask(
            masks[0], inputs[0].shape, output.shape, self.kernel, self.stride, self.dilation, self.padding,
            self.padding_mode,
        )  # fmt: skip

    def is_linear(self, deltas: Sequence[bool]) -> bool:
        return True

    def scaled(self, scale: Tensor, shift: Tensor) -> Conv:
        """The convolution followed by `* scale + shift` per output channel, computed in float64."""
        weight, bias = fold_output(self.weight, self.bias, scale, shift, channel=0)
        return Conv(weight, bias, self.stride, self.padding, self.dilation, self.groups, self.padding_mode)

    def prescaled(self, scale: Tensor, shift: Tensor) -> Conv | None:
        """The convolution preceded by `* scale + shift` per input channel, or None where zero padding forbids it."""
        padded = any(p for pair in self.padding for p in pair)
        if padded and self.padding_mode == "constant" and bool(shift.any()):
            return None
        per_group = self.weight.shape[1]
        ones = (1,) * self.rank
        by_group = self.weight.detach().double().unflatten(0, (self.groups, -1))
        scale = scale.double().view(self.groups, 1, per_group, *ones)
        shift = shift.double().view(self.groups, 1, per_group, *ones)
        weight = (by_group * scale).flatten(0, 1)
        bias = (by_group * shift).flatten(0, 1).flatten(1).sum(1)
        bias = bias if self.bias is None else bias + self.bias.detach().double()
        dtype = self.weight.dtype
        return Conv(
            weight.to(dtype), bias.to(dtype), self.stride, self.padding, self.dilation, self.groups, self.padding_mode
        )

    def extra_repr(self) -> str:
        out, per_group = self.weight.shape[:2]
        text = f"{per_group * self.groups}, {out}, kernel={self.kernel}, stride={self.stride}, padding={self.padding}"
        text += f", dilation={self.dilation}" if any(d != 1 for d in self.dilation) else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        return text + (f", padding_mode={self.padding_mode!r}" if self.padding_mode != "constant" else "")


def fold_output(
    weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, channel: int
) -> tuple[Tensor, Tensor]:
    """Weight and bias of `(weight · x + bias) * scale + shift`; `channel` is the weight's output dimension."""
    shape = [-1 if d == channel else 1 for d in range(weight.dim())]
    scale, shift = scale.double(), shift.double()
    folded = weight.detach().double() * scale.view(shape)
    offset = shift if bias is None else bias.detach().double() * scale + shift
    return folded.to(weight.dtype), offset.expand(weight.shape[channel]).to(weight.dtype)


def pairs_channels(weight: Tensor, per_group: int) -> bool:
    """Whether PyTorch's kernel multiplies the next pixel by 0, so that one that is not finite spreads too far.

    Those for bfloat16 on CPUs read channels in pairs; the last of an odd number is paired with what lies behind it.
    """
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and per_group % 2 == 1


def one_channel_more(tensor: Tensor, dim: int, groups: int) -> Tensor:
    """The tensor with a channel of zeros at the end of each group."""
    by_group = tensor.unflatten(dim, (groups, -1))
    return F.pad(by_group, [*[0, 0] * (by_group.dim() - dim - 2), 0, 1]).flatten(dim, dim + 1)
