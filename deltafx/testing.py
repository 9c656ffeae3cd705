"""Helpers for tests and benchmarks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deltafx.graph_module import DeltaGraphModule


@contextlib.contextmanager
def force_masks(dm: DeltaGraphModule, mask: Tensor) -> Iterator[None]:
    """Within the context, every truncation decision of `dm` becomes `mask`, pooled to the node's grid.

    For benchmarks: it sets the share of updated pixels whatever the frames show. `mask` is `[H, W]`, or `[N, H, W]` for
    N streams, non-zero where the input counts as changed; it is pooled by adaptive maximum. Windows still dilate, so a
    node computes its candidates and updates those in the mask; a refresh still updates everything.
    """
    if mask.dim() not in (2, 3):
        raise ValueError(f"force_masks: a mask of shape [H, W] or [N, H, W] is expected; got {tuple(mask.shape)}.")
    runtime = dm.runtime
    runtime.forced_mask = (mask != 0).to(torch.uint8).view(-1, *mask.shape[-2:])
    try:
        yield
    finally:
        runtime.forced_mask = None


def blobs(height: int, width: int, share: float, size: int = 48, seed: int = 0) -> Tensor:
    """A mask `[height, width]` of discs of about `size` pixels that cover about `share` of it."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    while mask.float().mean() < share:
        cy, cx, radius = torch.rand(3, generator=generator).tolist()
        r = size / 2 * (0.75 + radius / 2)
        mask |= ((y - cy * height) ** 2 + (x - cx * width) ** 2 <= r**2).to(torch.uint8)
    return mask


@torch.no_grad()
def scale_weights(model: nn.Module, *example_inputs: Any) -> nn.Module:
    """Give a randomly initialised model activations of RMS near 1, as trained ones have; returns the model.

    Batch norms take the statistics of the example; the last gain of each residual block is 0.3 (found by name: `bn3`,
    or `bn2` where there is no `bn3`). Other layers with weights are divided, in the order in which they run, by the RMS
    of their output. Changes `model` in place and leaves it in evaluation mode.
    """
    model.eval()
    for block in model.modules():
        last = getattr(block, "bn3", None) or getattr(block, "bn2", None)
        if isinstance(last, nn.BatchNorm2d) and hasattr(block, "downsample"):
            last.weight.fill_(0.3)

    def fit(module: nn.Module, args: tuple, output: Any) -> Tensor | None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            dims = [0, *range(2, args[0].dim())]
            module.running_mean.copy_(args[0].mean(dims))  # type: ignore[union-attr, operator]
            module.running_var.copy_(args[0].var(dims))  # type: ignore[union-attr, operator]
            return module.forward(args[0])
        rms = output.square().mean().sqrt()
        if rms > 0:
            module.weight.div_(rms)  # type: ignore[operator, union-attr]
            if module.bias is not None:
                module.bias.div_(rms)  # type: ignore[operator, union-attr]
        return output / rms if rms > 0 else output

    layers = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd, nn.Linear)
    hooks = [module.register_forward_hook(fit) for module in model.modules() if isinstance(module, layers)]
    try:
        model(*example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return model
