"""Find the first node that is wrong, by running the dense model in lock-step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from deltafx.capture import capture
from deltafx.converted import check_converted, dense_arguments, reset
from deltafx.delta import Delta
from deltafx.graph_module import DeltaGraphModule
from deltafx.measure import relative_error, tensors_of
from deltafx.node import DeltaNode
from deltafx.parts import DeltaParts
from deltafx.signature import Signature

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
    check_converted(dm, "verify")
    if isinstance(dm, DeltaParts):
        raise TypeError("verify goes node by node through one graph, and this model is in parts; use deltafx.compare.")
    if tolerance is None and not dm.runtime.settings.is_exact:
        raise ValueError("verify: this model withholds small changes; give the error you accept, tolerance=0.1.")
    dense = LockStep(capture(model), dm)
    reset(dm)
    errors: dict[str, float] = {}
    signature = Signature.of(dm.graph)
    for index, frame in enumerate(frames):
        args = frame if isinstance(frame, tuple) else (frame,)
        with dense.listening():
            output = tensors_of(dm(*args))
        for path, error, dtype in dense.compare(signature.bind(dense_arguments(dm, args), {}), output):
            errors[path] = max(error, errors.get(path, 0.0))
            if not error <= (tolerance if tolerance is not None else TOLERANCE.get(dtype, 0.0)):
                return Verification(path, index, error, errors)
    return Verification(None, None, max(errors.values(), default=0.0), errors)


class LockStep(fx.Interpreter):
    """Runs a captured dense graph and compares each node with what the converted one has sent for it.

    It compares at once: the dense model may overwrite a value in place later on.
    """

    def __init__(self, dense: fx.GraphModule, dm: DeltaGraphModule):
        super().__init__(dense)
        self.extra_traceback = False  # errors reach the user as they were raised
        paths = {node.meta["path"] for node in dense.graph.nodes}
        nodes = [node for node in dm.modules() if isinstance(node, DeltaNode)]
        self.nodes = {node.fused_from[-1]: node for node in nodes if node.fused_from[-1] in paths}
        if nodes and not self.nodes:
            raise ValueError("verify: no node of the model is in the converted one, which came from another model.")
        self.sent: dict[str, list[Tensor]] = {}  # by node: each output as its readers have it

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        hooks = [node.register_forward_hook(self.note) for node in self.nodes.values()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def note(self, node: Any, inputs: Any, output: Any) -> None:
        deltas = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Delta)]
        before = self.sent.get(node.path)
        self.sent[node.path] = [received(d, before[i] if before else None) for i, d in enumerate(deltas)]

    def compare(self, inputs: list[Any], output: list[Tensor]) -> list[tuple[str, float, Any]]:
        self.found: list[tuple[str, float, Any]] = []
        with torch.no_grad():
            wanted = tensors_of(self.run(*pytree.tree_map_only(Tensor, torch.clone, inputs)))
        dtype = next((t.dtype for t in wanted if t.is_floating_point()), torch.float32)
        self.found.append(("output", relative_error(output, wanted), dtype))
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        node = self.nodes.get(n.meta["path"])
        held, wanted = self.sent.get(node.path, []) if node is not None else [], tensors_of(result)
        if node is not None and held and len(held) == len(wanted):
            self.found.append((node.path, relative_error(held, wanted), held[0].dtype))
        return result


def received(delta: Delta, before: Tensor | None) -> Tensor:
    """What a reader has after this delta: differences add up, from 0 for a stream in refresh."""
    if delta.difference is None:
        return delta.payload.clone()
    if before is None:
        return delta.difference.clone()
    assert delta.fresh is not None
    return torch.where(delta.fresh, 0, before) + delta.difference
