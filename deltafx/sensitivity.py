"""How much a graph's results change with each of its truncation points: one backward pass over some frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from deltafx.graph_module import DeltaGraphModule
from deltafx.measure import tensors_of
from deltafx.node import DeltaNode, DenseToDelta

DRAWS = 2  # random projections of the results, for each frame


def sensitivities(graph: DeltaGraphModule, inputs: Iterable[tuple]) -> dict[str, float]:
    """By path: the mean squared relative change of the graph's results, for changes of one RMS of a node's output.

    Each result counts by its own size: what a large one has most of says nothing of a small one. To first order, for
    changes that are independent from element to element: the squared gradient of a random projection of the results,
    whose mean is that of all of them. Nodes through which no gradient comes are left out.
    """
    found: dict[str, list[float]] = {}
    generator = torch.Generator().manual_seed(0)
    for args in inputs:
        with torch.inference_mode(False), torch.enable_grad():
            walk = Gradients(graph)
            results = [each for each in tensors_of(walk.run(*args)) if each.requires_grad and each.any()]
            if not results:
                continue
            sizes = [each.detach().double().square().sum().sqrt().item() for each in results]
            for _ in range(DRAWS):
                weights = [
                    (torch.randn(each.shape, generator=generator) / size).to(each)
                    for each, size in zip(results, sizes, strict=True)
                ]
                outputs = list(walk.outputs.values())
                gradients = torch.autograd.grad(results, outputs, weights, retain_graph=True, allow_unused=True)
                for path, output, gradient in zip(walk.outputs, outputs, gradients, strict=True):
                    if gradient is not None:
                        square = gradient.double().square().sum() * output.detach().double().square().mean()
                        found.setdefault(path, []).append(square.item() / len(results))
    return {path: sum(values) / len(values) for path, values in found.items()}


class Gradients(fx.Interpreter):
    """Runs a converted graph as the dense network and keeps the output of every truncation point."""

    def __init__(self, graph: DeltaGraphModule):
        super().__init__(graph)
        self.outputs: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        module = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, DenseToDelta) and isinstance(result, Tensor) and result.is_floating_point():
            return result.detach().clone().requires_grad_()
        if isinstance(module, DeltaNode) and module.truncation is not None:
            note(self.outputs, module.path, result)
        return result


def note(outputs: dict[str, Tensor], path: str, result: Any) -> None:
    if isinstance(result, Tensor) and result.requires_grad:
        outputs[path] = result
