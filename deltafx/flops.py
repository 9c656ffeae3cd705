"""Formulas for operators that PyTorch's own counter of floating point operations takes for free."""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.module_tracker import ModuleTracker

aten = torch.ops.aten


def flop_counter() -> FlopCounterMode:
    """Counts two for each multiply-accumulate, also in what attention becomes, and in integers."""
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    counter.mod_tracker = OwnModules()
    return counter


class OwnModules(ModuleTracker):
    """Of this thread: PyTorch's tracker is told of every module that runs in the process."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def _fw_pre_hook(self, *call: Any) -> None:
        if threading.get_ident() == self.thread:
            super()._fw_pre_hook(*call)

    def _fw_post_hook(self, *call: Any) -> None:
        if threading.get_ident() == self.thread:
            super()._fw_post_hook(*call)


def attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Heads of the keys may serve several of the queries, which PyTorch's formula refuses."""
    return sdpa_flop_count(query, (*query[:2], *key[2:]), (*query[:2], *value[2:]))


def multi_head_attention(
    query: Any, key: Any, value: Any, width: int, heads: int, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """What nn.MultiheadAttention runs without gradients: projections of the inputs, attention, one of the result."""
    streams, wanted, _ = query
    given = key[1]
    projections = 2 * streams * (2 * wanted + 2 * given) * width * width
    each = (streams, heads, wanted, width // heads)
    return projections + sdpa_flop_count(each, (streams, heads, given, width // heads), (*each[:2], given, each[3]))


def quantized(x: Any, weights: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """A convolution or linear layer of integers, whose weights are packed with their bias."""
    return 2 * math.prod(out_shape) * weights.unpack()[0][0].numel()


QUANTIZED = ("conv1d", "conv1d_relu", "conv2d", "conv2d_relu", "conv3d", "conv3d_relu", "linear", "linear_relu")
FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: attention,
    aten._scaled_dot_product_flash_attention: attention,
    aten._scaled_dot_product_efficient_attention: attention,
    aten._scaled_dot_product_cudnn_attention: attention,
    aten._native_multi_head_attention: multi_head_attention,
    **{getattr(torch.ops.quantized, name): quantized for name in QUANTIZED},
}
