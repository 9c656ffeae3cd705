"""Find the first node that is wrong, by running the dense model in lock-step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from deltafx.capture import capture
from deltafx.graph_module import DeltaGraphModule
from deltafx.measure import relative_error, tensors_of
from deltafx.node import DeltaNode
from deltafx.plan import bind_arguments

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Verification:
    """The first wrong node, or None, and the largest relative error of each node that was compared."""

    node: str | None
    frame: int | None
    error: float
    errors: dict[str, float]

    @property
    def ok(self) -> bool:
        return self.node is None

    def __str__(self) -> str:
        if self.ok:
            return f"{len(self.errors)} nodes agree with the dense model; largest relative error {self.error:.1e}"
        return f"{self.node} is the first wrong node, in frame {self.frame}: relative error {self.error:.1e}"


def verify(
    model: nn.Module, dm: DeltaGraphModule, frames: Iterable[Any], *, tolerance: float | None = None
) -> Verification:
    """Run `model` node by node beside `dm`, which starts in full, and stop at the first node that differs.

    `dm` must be converted from `model`. In exact mode a node is wrong if its relative L2 error exceeds a few roundings
    of the dtype; with thresholds, changes are withheld on purpose, so `tolerance` must be given.
    """
    if tolerance is None and not dm.runtime.settings.is_exact:
        raise ValueError("verify: this model withholds small changes; give the error you accept, tolerance=0.1.")
    dense = LockStep(capture(model))
    dm.runtime.reset(None)
    errors: dict[str, float] = {}
    for index, frame in enumerate(frames):
        args = frame if isinstance(frame, tuple) else (frame,)
        output = tensors_of(dm(*args))
        wanted = dense.compare(dm, bind_arguments(dm, args, {}), output)
        for path, error, dtype in wanted:
            errors[path] = max(error, errors.get(path, 0.0))
            if not error <= (tolerance if tolerance is not None else TOLERANCE.get(dtype, 0.0)):
                return Verification(path, index, error, errors)
    return Verification(None, None, max(errors.values(), default=0.0), errors)


class LockStep(fx.Interpreter):
    """Runs a captured dense graph and, after each node, looks at what the converted one holds for it.

    The look must come at once: the dense model may overwrite a value in place later on.
    """

    def compare(self, dm: DeltaGraphModule, inputs: list[Any], output: list[Tensor]) -> list[tuple[str, float, Any]]:
        self.holds = {node.fused_from[-1]: node for node in dm.modules() if isinstance(node, DeltaNode)}
        self.plan = dm.runtime.plans[0]
        self.found: list[tuple[str, float, Any]] = []
        with torch.no_grad():
            result = self.run(*[x.clone() if isinstance(x, Tensor) else x for x in inputs])
        wanted = tensors_of(result)
        dtype = next((t.dtype for t in wanted if t.is_floating_point()), torch.float32)
        self.found.append(("output", relative_error(output, wanted), dtype))
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        node = self.holds.get(n.meta["path"])
        state = self.plan.nodes.get(node.path) if node is not None else None
        wanted = tensors_of(result)
        if node is not None and state is not None and len(state.leaves) == len(wanted):
            pairs = [(leaf.value, want) for leaf, want in zip(state.leaves, wanted, strict=True)]
            held = [(value, want) for value, want in pairs if value is not None]
            if held:
                error = relative_error([value for value, _ in held], [want for _, want in held])
                self.found.append((node.path, error, held[0][1].dtype))
        return result
