"""Helpers for tests and benchmarks."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from deltafx.capture import capture
from deltafx.converted import Converted, graphs_of
from deltafx.ops.base import fill
from deltafx.parts import DeltaParts
from deltafx.truncation import root_mean_square


@contextlib.contextmanager
def force_masks(dm: Converted, mask: Tensor, gates: bool = True) -> Iterator[None]:
    """Within the context, every truncation decision of `dm` becomes `mask`, pooled to the node's grid.

    For benchmarks: it sets the share of updated pixels whatever the frames show. `mask` is `[H, W]`, or `[N, H, W]` for
    N streams, non-zero where the input counts as changed; it is pooled by adaptive maximum. Windows still dilate, so a
    node computes its candidates and updates those in the mask; a refresh still updates everything. Without `gates`,
    nodes with one value for each stream (squeeze-excite gates, and what is pooled to one pixel) decide by themselves,
    by their thresholds. The first frame after the context is in full.
    """
    if mask.dim() not in (2, 3):
        raise ValueError(f"force_masks: a mask of shape [H, W] or [N, H, W] is expected; got {tuple(mask.shape)}.")
    forced = (mask != 0).to(torch.uint8).view(-1, *mask.shape[-2:])
    force(dm, forced, gates)
    try:
        yield
    finally:
        force(dm, None)
        for graph in graphs_of(dm):
            for plan in graph.runtime.plans:
                plan.reset_streams()  # what was prescribed is not what the frames showed


def force(dm: Converted, mask: Tensor | None, gates: bool = True) -> None:
    if isinstance(dm, DeltaParts):
        dm.forced_mask, dm.forces_gates = mask, gates  # for graphs that are still to be made
    for graph in graphs_of(dm):
        graph.runtime.forced_mask, graph.runtime.forces_gates = mask, gates


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


def clip(frames: int, height: int, width: int, streams: int = 2, seed: int = 0) -> Iterator[Tensor]:
    """Frames `[streams, 3, height, width]` of fixed cameras, each with its own scene, and everything that can go wrong.

    Textured discs move over a textured background, in the range of a picture normalised by mean and deviation. Every
    fourth frame has noise. Of each 25 frames, number 7 repeats the one before, stream n is black in number 12 + n, and
    in numbers 16 and 17 the last stream has pixels that are NaN, not the same ones; number 24 is as good as the first.
    """
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")

    def texture() -> Tensor:
        coarse = torch.rand(streams, 3, 9, 9, generator=generator)
        fine = torch.rand(streams, 3, height, width, generator=generator)
        return 0.8 * F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) + 0.2 * fine

    background, foreground = texture(), texture()
    start, speed = torch.rand(2, streams, 3, 2, generator=generator)
    radius = min(height, width) * (0.05 + 0.1 * torch.rand(streams, 3, generator=generator))
    frame = background
    for index in range(frames):
        number = index % 25
        if number != 7:
            frame = background.clone()
            for n in range(streams):
                for disc in range(3):
                    cy, cx = (start[n, disc] + index * (speed[n, disc] - 0.5) / 10) % 1
                    inside = (y - cy * height) ** 2 + (x - cx * width) ** 2 <= radius[n, disc] ** 2
                    frame[n] = torch.where(inside, foreground[n], frame[n])
                if number == 12 + n:
                    frame[n] = 0
            if number % 4 == 3:
                frame += 0.02 * torch.randn(frame.shape, generator=generator)
            if number in (16, 17):
                row = height // 3 + 10 * (number - 16)
                frame[-1, :, row : row + 3, width // 2 : width // 2 + 5] = float("nan")
        yield (frame - 0.45) / 0.225


@torch.no_grad()
def scale_weights(model: nn.Module, *example_inputs: Any) -> nn.Module:
    """Give a randomly initialised model activations of RMS near 1, as trained ones have; returns the model.

    Batch norms take the statistics of the example; other layers with weights are divided, in the order in which they
    run, by the RMS of their output. A branch that is added to its own input is scaled to 0.3, and to less where there
    are more than eleven, so that sums over many residual blocks stay near 1 and rounding is not amplified. The example
    needs several different pictures.

    Changes `model` in place and leaves it in evaluation mode. Raises ConvertError if `torch.fx` cannot trace it.
    """
    graph_module = capture(model.eval())
    ScaleWeights(graph_module, residual_ends(graph_module)).run(*example_inputs)
    return model


WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
BATCH_NORM = nn.modules.batchnorm._BatchNorm
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")


class ScaleWeights(fx.Interpreter):
    """Runs a captured model and fits each layer when it is first reached."""

    def __init__(self, graph_module: fx.GraphModule, gains: dict[Any, float]):
        super().__init__(graph_module)
        self.gains = gains
        self.fitted: set[nn.Module] = set()

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple:
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return fill(args, ()), fill(kwargs, ())  # lists that a function may write to, as the graph's own are not

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return value.fill_(self.gains[target]) if target in self.gains else value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        gain = self.gains.get(target, 1.0)
        if module not in self.fitted and isinstance(module, BATCH_NORM):
            fit_batch_norm(module, args[0], gain)
        elif module not in self.fitted and isinstance(module, WEIGHTED):
            rms = root_mean_square(module(*args, **kwargs))
            for weights in (module.weight, module.bias):
                if weights is not None and rms > 0:
                    weights.mul_(gain / rms)
        self.fitted.add(module)
        return super().call_module(target, args, kwargs)


def fit_batch_norm(module: nn.Module, x: Tensor, gain: float) -> None:
    """No channel is amplified more than about three times as much as the average one."""
    variance, mean = torch.var_mean(x, [0, *range(2, x.dim())])
    module.running_mean.copy_(mean)  # type: ignore[operator]
    module.running_var.copy_(variance.clamp(min=0.1 * variance.mean()))  # type: ignore[operator]
    module.weight.fill_(gain)  # type: ignore[operator]


def residual_ends(graph_module: fx.GraphModule) -> dict[Any, float]:
    """Of each branch that is added to its own input: the last layer or parameter with a gain, and that gain."""
    ancestors: dict[fx.Node, set[fx.Node]] = {}
    ends: set[Any] = set()
    for node in graph_module.graph.nodes:
        sources = node.all_input_nodes
        ancestors[node] = {*sources}.union(*(ancestors[source] for source in sources))
        if node.target in ADDITIONS and len(sources) == 2:
            for skip, branch in (sources, sources[::-1]):
                if skip in ancestors[branch]:
                    end = end_of_branch(graph_module, branch, skip)
                    if end is not None:
                        ends.add(end.target)
    return dict.fromkeys(ends, min(0.3, max(1, len(ends)) ** -0.5))


def end_of_branch(graph_module: fx.GraphModule, node: fx.Node, skip: fx.Node) -> fx.Node | None:
    while node is not skip and node.all_input_nodes:
        if node.op == "call_module" and isinstance(
            graph_module.get_submodule(str(node.target)), (*WEIGHTED, BATCH_NORM)
        ):
            return node
        constants = [source for source in node.all_input_nodes if source.op == "get_attr"]
        if node.target in PRODUCTS and constants:
            return constants[0]
        if len(node.all_input_nodes) != 1:
            return None
        node = node.all_input_nodes[0]
    return None
