"""How the CPU kernels multiply, and how they want the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deltafx import _cpu
from deltafx.backends.cpu.costs import dense_share, pairs_pay
from deltafx.backends.matrix import matrix_of, to_matrix
from deltafx.backends.recipe import Product, Recipe
from deltafx.backends.steps import Steps
from deltafx.state import Leaf


def product(p: Product, isa: str, dense_switch: bool) -> Recipe:
    groups, _, per_group, out = p.weight.shape
    if p.kind == "convolution" and out == per_group == 1 and groups > 1:
        taps = p.weight.flatten(1).t().contiguous()
        return Recipe("depthwise", (matrix_of(p.x), taps, p.bias, *p.window.arguments), [p.source], p.window, p.steps)
    pairs = can_be_pairs(p.weight, p.x.dtype, isa) and pairs_pay(isa)
    packed = pack(p.weight, isa, pairs)
    arguments = (matrix_of(p.x), packed, p.bias, groups, *p.window.arguments)
    recipe = Recipe("convolve", arguments, [p.source], p.window, p.steps, dense(p.whole, p.x, p.steps))
    if dense_switch:
        recipe.dense_share = dense_share(kind_of(p), p.weight.numel() / packed.numel(), isa, p.x.dtype)
    return recipe


def kind_of(p: Product) -> str:
    """As `costs` tells layers apart."""
    groups, taps = p.weight.shape[:2]
    if p.kind == "transposed":
        return "transposed"
    return "grouped" if groups > 1 else "pointwise" if taps == 1 else "window"


def can_be_pairs(by_tap: Tensor, dtype: torch.dtype, isa: str) -> bool:
    """Whether weights `[groups, taps, in, out]` may be multiplied in pairs of bfloat16."""
    return dtype == torch.bfloat16 and by_tap.shape[2] % 2 == 0 and _cpu.pairs(isa)


def pack(by_tap: Tensor, isa: str, pairs: bool = False) -> Tensor:
    """Weights `[groups, taps, in, out]` as the kernel reads them: `[groups, panels, taps * in, panel]`.

    Those in `pairs` are bfloat16, `[groups, panels, taps * in / 2, panel, 2]`.
    """
    groups, taps, per_group, out = by_tap.shape
    panel = _cpu.panel(isa)
    panels = -(-out // panel)
    padded = torch.zeros(groups, taps, per_group, panels * panel)
    padded[..., :out] = by_tap
    packed = padded.view(groups, taps * per_group, panels, panel).transpose(1, 2)
    if pairs:
        return packed.unflatten(2, (-1, 2)).transpose(3, 4).to(torch.bfloat16).contiguous()
    return packed.contiguous()


def dense(op: Any, x: Leaf, steps: Steps) -> Callable[[], Tensor]:
    return lambda: to_matrix(op(x.value), steps.out.pixel)
