"""How the CPU kernels multiply: packed weights, and from where on PyTorch's dense operators are faster."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deltafx import _cpu
from deltafx.backends.matrix import matrix_of, to_matrix
from deltafx.backends.recipe import Product, Recipe
from deltafx.backends.steps import Steps
from deltafx.state import Leaf

# The compiled kernels are as fast as oneDNN where all pixels are computed, except for those named here, where dense is
# faster from these shares of computed pixels on (measured on resnext50_32x4d, a 4x4 transposed convolution of stride 2,
# and twice on resnet50: benchmarks/README.md).
NARROW_GROUPS = 0.8  # times the filled part of a panel of weights
TRANSPOSED = 0.25  # most of its taps read nothing
PORTABLE = 0.15  # plain C++ beside whatever oneDNN has for the processor
BFLOAT16 = 0.45  # where the processor multiplies bfloat16, which the compiled kernels do not
NEVER = math.inf


def product(p: Product, isa: str) -> Recipe:
    groups, _, per_group, out = p.weight.shape
    if p.kind == "convolution" and out == per_group == 1 and groups > 1:
        taps = p.weight.flatten(1).t().contiguous()
        return Recipe("depthwise", (matrix_of(p.x), taps, p.bias, *p.window.arguments), [p.source], p.window, p.steps)
    packed = pack(p.weight, isa)
    share = dense_share(isa, p.x.dtype)
    if p.kind == "transposed":
        share = min(TRANSPOSED, share)
    elif groups > 1:
        share = min(NARROW_GROUPS * p.weight.numel() / packed.numel(), share)
    arguments = (matrix_of(p.x), packed, p.bias, groups, *p.window.arguments)
    return Recipe("convolve", arguments, [p.source], p.window, p.steps, dense(p.whole, p.x, p.steps), share)


def dense_share(isa: str, dtype: torch.dtype) -> float:
    """The share of computed pixels from which oneDNN is faster than the compiled kernel for any convolution."""
    native = torch.cpu.get_capabilities()
    if dtype == torch.bfloat16 and (native.get("avx512_bf16") or native.get("amx_bf16")):
        return BFLOAT16
    return PORTABLE if isa == "portable" else NEVER


def pack(by_tap: Tensor, isa: str) -> Tensor:
    """Weights `[groups, taps, in, out]` as the kernel reads them: `[groups, panels, taps * in, panel]`."""
    groups, taps, per_group, out = by_tap.shape
    panel = _cpu.panel(isa)
    panels = -(-out // panel)
    padded = torch.zeros(groups, taps, per_group, panels * panel)
    padded[..., :out] = by_tap
    return padded.view(groups, taps * per_group, panels, panel).transpose(1, 2).contiguous()


def dense(op: Any, x: Leaf, steps: Steps) -> Callable[[], Tensor]:
    return lambda: to_matrix(op(x.value), steps.out.pixel)
