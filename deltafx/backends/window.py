"""Tables of which input pixels an output pixel reads, axis by axis.

Every operator with a window is told by two such tables: convolutions with any stride, dilation and padding mode,
transposed ones, pooling with its ceil mode, adaptive pooling, interpolation. The kernels know none of these words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltafx.backends.matrix import NoKernel
from deltafx.state import Leaf

NOTHING = -1  # a tap that reads nothing


@dataclass(frozen=True, eq=False)
class Window:
    """`rows[y, i]` is the input row behind tap i of output row y, or -1; int32 `[out_rows, kernel_rows]`."""

    rows: Tensor
    columns: Tensor
    in_rows: int
    in_columns: int

    @property
    def arguments(self) -> tuple[Tensor, Tensor, int, int]:
        """As the operators take them."""
        return self.rows, self.columns, self.in_rows, self.in_columns

    def to(self, device: torch.device) -> Window:
        return Window(self.rows.to(device), self.columns.to(device), self.in_rows, self.in_columns)

    @property
    def taps(self) -> int:
        return self.rows.shape[1] * self.columns.shape[1]

    @property
    def pixels(self) -> int:
        """Of the output, in each stream."""
        return self.rows.shape[0] * self.columns.shape[0]


def same_pixels(count: int) -> Window:
    """Every pixel reads itself."""
    return Window(counting(1).view(1, 1), counting(count).view(-1, 1), 1, count)


def all_pixels(rows: int, columns: int) -> Window:
    """The one output pixel reads everything."""
    return Window(counting(rows).view(1, -1), counting(columns).view(1, -1), rows, columns)


def image_window(x: Leaf, rank: int, axis: Callable[[int], Tensor]) -> Window:
    """The window over a feature map `[N, C, H, W]` or, with one row, `[N, C, L]`."""
    if rank == 3:
        raise NoKernel("three spatial dimensions have no compiled kernel")
    if x.pixel != (x.shape[0], 1, *x.shape[2:]):
        raise NoKernel("its input is not a feature map with channels in dimension 1")
    if rank == 1:
        return Window(table([[0]]), axis(0), 1, x.shape[2])
    return Window(axis(0), axis(1), x.shape[2], x.shape[3])


def sliding(
    size: int, new: int, kernel: int, stride: int, dilation: int, before: int, mode: str = "constant"
) -> Tensor:
    """The axis of a convolution or a pooling with `before` pixels of padding in front of the first one."""
    position = torch.arange(new).unsqueeze(1) * stride - before + torch.arange(kernel) * dilation
    if mode == "reflect":
        position = (size - 1) - ((size - 1) - position.abs()).abs()
    elif mode == "replicate":
        position = position.clamp(0, size - 1)
    elif mode == "circular":
        position = position % size
    return inside(position, size)


def transposed(size: int, new: int, kernel: int, stride: int, dilation: int, padding: int) -> Tensor:
    """The axis of a transposed convolution: the inputs whose kernel is laid over an output."""
    reach = torch.arange(new).unsqueeze(1) + padding - torch.arange(kernel) * dilation
    position = torch.where(reach % stride == 0, reach // stride, NOTHING)
    return inside(position, size)


def adaptive(size: int, new: int) -> Tensor:
    """The axis of an adaptive pooling: windows that divide the input into `new` parts."""
    starts = [i * size // new for i in range(new)]
    ends = [-(-(i + 1) * size // new) for i in range(new)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    return table([[p if p < end else NOTHING for p in range(s, s + longest)] for s, end in zip(starts, ends)])


def inside(position: Tensor, size: int) -> Tensor:
    return torch.where((position >= 0) & (position < size), position, NOTHING).to(torch.int32).contiguous()


def counting(size: int) -> Tensor:
    return torch.arange(size, dtype=torch.int32)


def table(rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32)
