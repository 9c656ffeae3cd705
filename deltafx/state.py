"""The state of one plan: what every node keeps from frame to frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from deltafx.delta import Delta
from deltafx.handover import Follower

MASK_UNIT = 16  # bytes, of which a mask has whole ones: what kernels read and mark at once

# What a tally counts, in pixels: those of the last frame, and their sums since the last reset; and frames since then.
COMPUTED, UPDATED, COMPUTED_SUM, UPDATED_SUM, FRAMES = range(5)


def mask_bytes(pixels: int) -> int:
    """What a mask takes."""
    return -(-pixels // MASK_UNIT) * MASK_UNIT


@dataclass(frozen=True)
class Form:
    """What a plan fixes of a tensor."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    quantizer: tuple[float, int] | None = None

    def __str__(self) -> str:
        scale = "" if self.quantizer is None else ", scale {:g} and zero point {}".format(*self.quantizer)
        return f"a tensor of shape {tuple(self.shape)}{scale}"


def quantizer_of(tensor: Tensor) -> tuple[float, int] | None:
    """Scale and zero point of a quantized tensor, which a buffer for it must have."""
    return (tensor.q_scale(), tensor.q_zero_point()) if tensor.is_quantized else None


@dataclass(eq=False)
class Leaf:
    """The state behind one output tensor of a node (most have one; a `chunk` has several).

    `value` is what downstream saw last. With `aliased`, it is a view of an input's buffer and moves by itself.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    stride: tuple[int, ...]
    pixel: tuple[int, ...] = ()  # the shape of the mask
    quantizer: tuple[float, int] | None = None
    value: Tensor | None = None
    raw: Tensor | None = None  # of an input that is preprocessed: the frame behind `value`, uint8
    aliased: bool = False
    own: bool = False  # `value` is a buffer that was allocated for it
    fill_is_read: bool = False  # what that is filled up with must stay 0, because a kernel multiplies it
    alignment: int | None = None  # of the buffer's pixels, in bytes; None: it lies as the dense operator's result does
    strip: Leaf | None = None  # its mask: the rows that a background refresh computes anew in this frame
    threshold: float | None = None  # of the last frame, in units of the tensor; None: 0
    lane: int = 0  # on a GPU: what is in another lane may run at the same time, and shares no scratch

    def __post_init__(self) -> None:
        self.mask = torch.empty(0, dtype=torch.uint8)  # until `allocate_mask`
        self.tally = torch.zeros(5, dtype=torch.int64)
        self.follower = Follower()  # of an input

    @property
    def form(self) -> Form:
        return Form(self.shape, self.dtype, self.device, self.quantizer)

    @property
    def bytes(self) -> int:
        """Of the buffer."""
        return math.prod(self.layout()[1]) * self.dtype.itemsize

    @property
    def pixels(self) -> int:
        return math.prod(self.pixel)

    @property
    def delta(self) -> Delta:
        """What a node with `value` payload sends: always the same tensors."""
        return Delta(self.mask, value=self.value)

    def layout(self) -> tuple[list[int], list[int]]:
        """The order in which the dimensions lie in memory, and how long the buffer is in each.

        They lie as the dense operator laid out its result. Or, with `alignment`, first those that tell pixels apart and
        then the channels, so that a pixel lies in one piece; it is filled up where it would be odd, as 3 channels are.
        """
        order = sorted(range(len(self.shape)), key=lambda d: (-self.stride[d], d))
        if self.alignment is None or len(self.pixel) != len(self.shape):
            return order, [self.shape[d] for d in order]
        order.sort(key=lambda d: (self.pixel[d] == 1 and self.shape[d] != 1, d))
        sizes = [self.shape[d] for d in order]
        channels = [d for d in order if self.pixel[d] == 1 and self.shape[d] != 1]
        if len(channels) == 1 and sizes[-1] > 2 and self.quantizer is None:
            unit = max(1, self.alignment // self.dtype.itemsize)
            sizes[-1] += -sizes[-1] % unit
        return order, sizes

    def allocate(self) -> Tensor:
        """A buffer of zeros."""
        order, sizes = self.layout()
        if self.quantizer is not None:
            dense = torch.quantize_per_tensor(torch.zeros(sizes, device=self.device), *self.quantizer, self.dtype)
        else:
            dense = torch.zeros(sizes, dtype=self.dtype, device=self.device)
        if sizes and sizes[-1] != self.shape[order[-1]]:
            dense = dense.narrow(-1, 0, self.shape[order[-1]])
        return dense.permute([order.index(d) for d in range(len(order))])

    def allocate_mask(self) -> None:
        memory = torch.zeros(mask_bytes(self.pixels), dtype=torch.uint8, device=self.device)
        self.mask = memory[: self.pixels].view(self.pixel)
        self.tally = self.tally.to(self.device)

    def decide(self, candidates: Tensor, update: Tensor) -> None:
        """Take note of this frame's masks: which pixels were computed, and which of them are propagated."""
        self.mask.copy_(update)
        counts = [mask.sum() * (self.pixels // max(1, mask.numel())) for mask in (candidates, update)]
        self.tally[:COMPUTED_SUM] = torch.stack(counts)
        self.tally[COMPUTED_SUM:FRAMES] += self.tally[:COMPUTED_SUM]
        self.tally[FRAMES] += 1

    def rest(self) -> None:
        """A frame in which nothing was computed."""
        self.mask.zero_()
        self.tally[:COMPUTED_SUM] = 0
        self.tally[FRAMES] += 1

    def shares(self, last: int) -> tuple[float, float] | None:
        """The share of pixels computed or updated (`last`) in the last frame, and its mean; None before the first."""
        tally = self.tally.tolist()
        if not tally[FRAMES]:
            return None
        pixels = max(1, self.pixels)  # an output may be empty
        return tally[last] / pixels, tally[last + COMPUTED_SUM] / (pixels * tally[FRAMES])


@dataclass(eq=False)
class NodeState:
    """What one node keeps: a leaf for each output tensor and, with `difference` payload, its accumulated inputs."""

    path: str
    nest: Any = None  # its output, with a Leaf for each tensor
    aligned: bool = True  # row n of every output belongs to stream n; else a refresh of one stream is one of all
    reason: str | None = None  # why the mask rule does not apply to these shapes
    random: bool = False  # draws random numbers, so that its output changes by itself
    dense: bool = False  # computes every pixel in every frame
    linear: int = 0  # with `difference` payload: how many of the stages work on differences
    keeps_value: bool = True  # with `difference` payload, a linear node without a threshold keeps none
    macs: int = 0  # of a dense frame
    operands: list[torch.Size] = field(default_factory=list)  # shapes of the input tensors
    predicted_bytes: int = 0
    lag: float = 0.0  # behind the input, of a background refresh
    accumulated: dict[Any, Tensor] = field(default_factory=dict)  # by node input; None: the linear stages
    offset: Any = None  # the linear stages' result for zero inputs: their bias
    last_frame: int = -1
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))  # refresh flags: see `refresh`
    kernel: Any = None
    deltas: Any = None  # what it sends with `value` payload: `nest` with the Delta of each Leaf
    seconds: float = 0.0  # of the last frame and, in `seconds_sum`, since the last reset; where profiling is on
    seconds_sum: float = 0.0

    def __post_init__(self) -> None:
        self.leaves = [leaf for leaf in tree_leaves(self.nest) if isinstance(leaf, Leaf)]

    def bind(self, kernel: Any) -> None:
        """All buffers are there: this is the kernel that works on them."""
        self.kernel = kernel
        self.deltas = tree_map_only(Leaf, lambda leaf: leaf.delta, self.nest)

    def add_seconds(self, seconds: float) -> None:
        """A frame took this long."""
        self.seconds = seconds
        self.seconds_sum += seconds

    def forget_counts(self) -> None:
        self.seconds_sum = 0.0
        for leaf in self.leaves:
            leaf.tally.zero_()

    def refresh(self, rank: int) -> Tensor:
        """This frame's refresh flags as a mask that broadcasts against an output of the given rank.

        They are `[N]`, or `[]` for a node that is not aligned.
        """
        return self.rows.view(-1, *[1] * (rank - 1)) if self.rows.dim() else self.rows

    def tensors(self) -> Sequence[Tensor]:
        """Every buffer the node owns."""
        own = [leaf.value for leaf in self.leaves if leaf.value is not None and not leaf.aliased]
        own += [leaf.raw for leaf in self.leaves if leaf.raw is not None]
        masks = [leaf.mask for leaf in self.leaves]
        offset = [t for t in tree_leaves(self.offset) if isinstance(t, Tensor)]
        return [*own, *masks, *self.accumulated.values(), *offset]
