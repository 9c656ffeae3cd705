"""What PyTorch's tracers run instead of the compiled operators, which return nothing and write to their arguments."""

from __future__ import annotations

from typing import Any

import torch

from deltafx import _cuda

OPERATORS = (
    "clear", "collect", "convolve", "depthwise", "pool", "copy", "reduce", "dense_to_delta", "mark", "finish",
    "depthwise_all", "pool_all", "reduce_all", "product_all", "tick",
)  # fmt: skip


def nothing(*args: Any, **kwargs: Any) -> None:
    """Shapes do not change, so there is nothing to tell."""


for name in OPERATORS:
    torch.library.register_fake(f"deltafx_cuda::{name}", nothing)


@torch.library.register_fake("deltafx_cuda::tilings")
def some_tiling(*args: Any) -> list[int]:
    return [_cuda.tiles["small"], 1]
