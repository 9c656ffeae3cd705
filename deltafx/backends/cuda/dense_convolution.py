"""The dense form of a convolution: cuDNN computes it and, where it can, ends it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deltafx.backends.cuda.cudnn import Convolution, FusedConvolution
from deltafx.backends.cuda.dense_form import DenseForm
from deltafx.backends.cuda.ending import PLAIN, ending_of
from deltafx.backends.cuda.engines import Engine
from deltafx.backends.matrix import filled_up, matrix
from deltafx.backends.steps import Steps
from deltafx.state import Leaf

if TYPE_CHECKING:
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda


def engines_of(plan: Plan) -> dict[str, Engine]:
    """How cuDNN computes the convolutions of a plan, by their form."""
    return plan.scratch.setdefault("engines", {})


class Scratch:
    """What nodes of a lane need beside their buffers while they run; as much as the largest needs."""

    def __init__(self) -> None:
        self.bytes = 0
        self.buffer: Tensor | None = None
        self.workspace: Tensor | None = None

    @classmethod
    def of(cls, plan: Plan, leaf: Leaf) -> Scratch:
        return plan.scratch.setdefault(("dense", leaf.lane), cls())

    def ask(self, like: Tensor) -> None:
        """For a tensor of the form of another, `[N, C, H, W]`."""
        self.bytes = max(self.bytes, like.numel() * like.dtype.itemsize)

    def take(self, like: Tensor) -> Tensor:
        """What was asked for, whose pixels lie side by side, once all nodes have asked."""
        if self.buffer is None:
            self.buffer = torch.empty(self.bytes, dtype=torch.uint8, device=like.device)
        n, c, h, w = like.shape
        part = self.buffer[: like.numel() * like.dtype.itemsize]
        return part.view(like.dtype).view(n, h, w, c).permute(0, 3, 1, 2)

    def reserve(self, workspace: Tensor) -> None:
        """Before anything that uses it is captured."""
        if self.workspace is None or len(self.workspace) < len(workspace):
            self.workspace = workspace


class DenseConvolution(DenseForm):
    """Of one node of one plan.

    Odd numbers of channels are slow. Where nothing reads what the buffer is filled up with, this is computed too, from
    weights of 0. Where cuDNN does not end it, another kernel does; it passes through scratch then, if its pixels do not
    lie side by side because it is a part of a concatenation.
    """

    def __init__(self, convolution: Convolution, steps: Steps, leaf: Leaf, out: Tensor, plan: Plan):
        self.convolution, self.leaf, self.out = convolution, leaf, out
        self.steps = (*steps.arguments, leaf.shape[0])
        ending = ending_of(steps, leaf)
        self.endings = [] if ending is None else [ending]  # that cuDNN may have for it, the best first
        self.endings += [PLAIN] if convolution.is_transposed else []
        self.candidates: list[FusedConvolution] = []
        self.fused: FusedConvolution | None = None
        self.finishes = bool(steps.codes)
        self.engines, self.scratch = engines_of(plan), Scratch.of(plan, leaf)
        self.write_to(out)
        if self.apart:
            self.scratch.ask(like=self.value)

    def write_to(self, pixels: Tensor) -> None:
        """`[pixels, channels]`."""
        streams, _, rows, columns = self.leaf.shape
        self.value = pixels.unflatten(0, (streams, rows, columns)).permute(0, 3, 1, 2)
        self.target, self.result = self.value, self.out  # of the convolution alone
        self.apart = not self.value.is_contiguous(memory_format=torch.channels_last)

    def propose(self) -> None:
        whole = filled_up(self.leaf)
        more = whole.shape[1] > self.out.shape[1] and not self.leaf.fill_is_read
        if more and self.endings and self.endings[0].residual is None and self.convolution.groups == 1:
            self.convolution = self.convolution.widened(whole.shape[1])
            self.endings = [ending.widened(whole.shape[1]) for ending in self.endings]
            self.write_to(whole)
        fused = [self.convolution.fused(ending, self.value, self.engines) for ending in self.endings]
        self.candidates = [each for each in fused if each is not None]

    def prepare(self) -> None:
        value = torch.empty_strided(self.value.shape, self.value.stride(), dtype=self.out.dtype, device=self.out.device)
        target = torch.empty_like(value, memory_format=torch.channels_last) if self.apart else value

        def unfused() -> None:
            self.convolution(target)
            operators.finish.default(self.matrix(target), *self.steps, self.matrix(value))

        self.fuse(value, unfused)
        if self.fused is not None:
            return
        self.convolution(target)
        if self.apart:
            self.target = self.scratch.take(like=target)
            self.result, self.finishes = self.matrix(self.target), True

    def matrix(self, value: Tensor) -> Tensor:
        """Without what is filled up."""
        return matrix(value[:, : self.out.shape[1]], self.leaf.pixel)

    def fuse(self, value: Tensor, unfused: Callable[[], None]) -> None:
        """With the first ending for which there is a way that beats `unfused`; `value` is written to."""
        for fused in self.candidates:
            if fused.settle(value, unfused):
                self.fused, self.finishes = fused, self.finishes and fused.ending is PLAIN
                self.scratch.reserve(fused.workspace(value.device))
                return

    @property
    def launches(self) -> int:
        return 1 + self.finishes

    def __call__(self) -> None:
        if self.fused is not None:
            assert self.scratch.workspace is not None
            self.fused(self.value, self.scratch.workspace)
        else:
            self.convolution(self.target)
        if self.finishes:
            operators.finish.default(self.result, *self.steps, self.out)
