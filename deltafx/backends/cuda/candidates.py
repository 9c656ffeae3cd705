"""The pixels that a node has to compute, as its kernel learns of them: by the rule, or by what `collect` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx import _cuda
from deltafx.backends.matrix import NoKernel
from deltafx.backends.window import Window, inside
from deltafx.state import Leaf

if TYPE_CHECKING:
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda

FLAT_ROW = 1024  # pixels of a row of the grid, where the rows of the image do not matter
NO_FORM = [0, 0, 0, 0]  # of an axis of the window
MOST_TAPS = 15  # of an axis with a simple form: they are bits of half a word
PIECE = 1 << 16  # bytes that one block clears
STATIC_BYTES = 1 << 10


class Candidates:
    """`sources` are the inputs, each with its relation to the output's pixels.

    `moves`: they are the update mask of `out` too, which has no kernel of its own.
    """

    def __init__(self, sources: Sequence[tuple[Leaf, str]], window: Window, out: Leaf, plan: Plan, moves: bool = False):
        if len(sources) > _cuda.max_sources:
            raise NoKernel(f"it has more than {_cuda.max_sources} inputs")
        windowed = "whole" if reads_everything(window) else "same" if reads_itself(window) else "window"
        names = [windowed if name == "window" else name for _, name in sources]
        masks = [leaf.mask for leaf, _ in sources]
        relations = [_cuda.relations[name] for name in names]
        streams, plane = out.pixel[0], window.pixels
        columns = window.columns.shape[0] if "window" in names else min(plane, FLAT_ROW)
        axes = axes_of(window)
        units = _cuda.units(streams, plane, columns)
        if units > _cuda.most_units:
            raise NoKernel(f"its pixels are more than {_cuda.most_units} units")
        rule = [plane, columns, *axes[0], *axes[1]]
        by_itself = not moves and len(sources) <= _cuda.own_sources and "whole" not in names
        if by_itself and _cuda.finds_by_itself(streams, plane, columns, "window" in names, *axes):
            self.collecting = None
            self.arguments: tuple = (masks, relations, rule, None, None)
        else:
            needed, most = _cuda.unit_bytes(streams, plane, columns, "window" in names, *axes), most_shared(out.device)
            if needed > most:
                raise NoKernel(f"its masks take {needed:,} bytes of shared memory, of which a block has {most:,}")
            written = Written.of(plan, out, units)
            self.collecting = (masks, relations, rule, *window.to(out.device).arguments)
            self.written = (*written, *((out.mask, out.tally) if moves else (None, None)))
            self.arguments = ([], [], rule, *written)

    def __call__(self, refresh: Tensor) -> None:
        """Collect, where the kernel needs it."""
        if self.collecting is not None:
            operators.collect.default(*self.collecting, refresh, *self.written)


def most_shared(device: torch.device) -> int:
    """Bytes of shared memory that a block can ask for, beside those that its kernel has in any case."""
    of_device: Any = torch.cuda.get_device_properties(device)
    return of_device.shared_memory_per_block_optin - STATIC_BYTES


class Written:
    """Scratch of `collect`, which lives while one node runs; shared by the nodes of a lane with as many pixels."""

    @staticmethod
    def of(plan: Plan, out: Leaf, units: int) -> tuple[Tensor, Tensor]:
        key = ("written", out.lane, out.pixels, units)
        if key not in plan.scratch:
            sizes = (out.pixels, units)
            plan.scratch[key] = tuple(torch.zeros(size, dtype=torch.int32, device=out.device) for size in sizes)
        return plan.scratch[key]


class Marks:
    """What kernels mark and count in one frame, which is 0 when it begins: masks, and the head of tallies."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.pieces: Tensor | None = None
        self.cleared = -1  # when

    @classmethod
    def of(cls, plan: Plan) -> Marks:
        return plan.scratch.setdefault("marks", cls())

    def add(self, *tensors: Tensor) -> None:
        self.tensors += tensors

    def begin(self, plan: Plan) -> None:
        """The first kernel of a frame that comes here clears them all."""
        if self.cleared == plan.clock.time:
            return
        self.cleared = plan.clock.time
        if self.pieces is None:
            spans = [(x.data_ptr(), x.numel() * x.itemsize) for x in self.tensors]
            pieces = [(at + k, min(PIECE, size - k)) for at, size in spans for k in range(0, size, PIECE)]
            self.pieces = torch.tensor(pieces, dtype=torch.int64, device=self.tensors[0].device)
        operators.clear.default(self.pieces)


def reads_everything(window: Window) -> bool:
    """Whether it is one output pixel that reads all of its stream."""
    return window.pixels == 1 and covers(window.rows, window.in_rows) and covers(window.columns, window.in_columns)


def reads_itself(window: Window) -> bool:
    """Whether every output pixel reads the input pixel in its place, as with a 1x1 kernel of stride 1."""
    return window.taps == 1 and covers(window.rows, window.in_rows) and covers(window.columns, window.in_columns)


def covers(axis: Tensor, size: int) -> bool:
    return torch.equal(axis.flatten(), torch.arange(size, dtype=axis.dtype))


def axes_of(window: Window) -> list[list[int]]:
    """Both axes of a window, as the kernels take them; without a form unless both have one."""
    straight = [axis_of(window.rows, window.in_rows), axis_of(window.columns, window.in_columns)]
    axes = [axis for axis in straight if axis is not None]
    return axes if len(axes) == 2 else [[*NO_FORM, window.in_rows], [*NO_FORM, window.in_columns]]


def axis_of(axis: Tensor, size: int) -> list[int] | None:
    """Stride, offset, dilation, taps and input size, if tap j of output x reads x * stride + offset + j * dilation."""
    valid = axis >= 0
    if not valid.any() or axis.shape[1] > MOST_TAPS:
        return None

    def step(dim: int) -> int:
        count = axis.shape[dim] - 1
        both = valid.narrow(dim, 0, count) & valid.narrow(dim, 1, count)
        steps = (axis.narrow(dim, 1, count) - axis.narrow(dim, 0, count))[both]
        return int(steps[0]) if len(steps) else 1

    stride, dilation = step(0), step(1)
    x, j = valid.nonzero()[0].tolist()
    offset = int(axis[x, j]) - x * stride - j * dilation
    outputs, taps = (torch.arange(count) for count in axis.shape)
    straight = inside(outputs[:, None] * stride + offset + taps * dilation, size)
    return [stride, offset, dilation, axis.shape[1], size] if stride > 0 and torch.equal(straight, axis) else None
