"""The leaf modules of the rewritten graph.

Outside a frame they are the dense network: called with tensors they return tensors. Inside a frame (see
`deltafx.runtime`) deltas travel between them and their state, which the runtime keeps, is updated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from deltafx.delta import Delta
from deltafx.errors import FrameError
from deltafx.handover import hand_over
from deltafx.ops import GetItem, Island, Op
from deltafx.preprocess import Preprocess
from deltafx.truncation import Truncation

if TYPE_CHECKING:
    from deltafx.runtime import Runtime

NO_EXPORT = (
    "a converted model keeps state from frame to frame and cannot be exported or traced; export the model it came "
    "from. Around it, torch.compile breaks the graph by itself."
)

OWN = "own"  # a buffer of the node's own
VIEW = "view"  # a view of the input's buffer, where the strides allow it


@dataclass(frozen=True)
class SliceOf:
    """The node writes into its part of the buffer of the concatenation at `path`."""

    path: str


Storage = str | SliceOf


class Stage(nn.Module):
    """One operator of a fused node. An operand is the number of a node input; None is the previous stage's result."""

    def __init__(self, op: Op, operands: Sequence[int | None]):
        super().__init__()
        self.op = op
        self.operands = tuple(operands)

    def pick(self, inputs: Sequence[Any], previous: Any) -> list[Any]:
        return [previous if index is None else inputs[index] for index in self.operands]


class FrameModule(nn.Module):
    """A leaf module with a place in the graph (`path`) and access to the runtime, which owns its state."""

    runtime: Runtime | None

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self.backend: Any = None  # chooses the kernel when a plan is filled
        # Not a submodule: the runtime belongs to the graph module, and all of its leaf modules refer to it.
        self.__dict__["runtime"] = None

    def attach(self, runtime: Runtime) -> None:
        self.__dict__["runtime"] = runtime

    def _apply(self, fn: Any, recurse: bool = True) -> FrameModule:
        super()._apply(fn, recurse)
        if self.runtime is not None:
            self.runtime.start_over()  # moved, or converted to another dtype
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        take_over_weights(self)
        if self.runtime is not None:
            self.runtime.forget_weights()
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def plan(self) -> Any:
        """The plan of the frame that is running, or None outside a frame."""
        return self.runtime.running if self.runtime is not None else None


def refuse_export() -> None:
    """State from frame to frame cannot be traced into another graph."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        raise FrameError(NO_EXPORT)


def refuse_symbolic(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, (fx.Proxy, torch._subclasses.FakeTensor)):
            raise FrameError(NO_EXPORT)


def take_over_weights(module: nn.Module, recurse: bool = True) -> None:
    """Copy the weights that are borrowed from the caller's model, because they are about to be written to."""
    for parameter in module.parameters(recurse):
        parameter.data = parameter.data.clone()


class DeltaNode(FrameModule):
    """An operator, or a fused chain of them, in delta form."""

    stages: list[Stage]  # an nn.ModuleList, which mypy does not know the contents of

    def __init__(self, op: Op, path: str, arity: int):
        super().__init__(path)
        self.stages = nn.ModuleList([Stage(op, range(arity))])  # type: ignore[assignment]
        self.fused_from: tuple[str, ...] = (path,)
        self.truncation: Truncation | None = None
        self.at_end = False  # it reads the input of the graph, or its result leaves it
        self.payload = "value"
        self.storage: Storage = OWN

    @property
    def head(self) -> Op:
        return self.stages[0].op

    @property
    def operator(self) -> str:
        return " + ".join(stage.op.spelling for stage in self.stages)

    @property
    def island(self) -> Island | None:
        return self.head if isinstance(self.head, Island) else None

    def forward(self, *inputs: Any) -> Any:
        plan = self.plan
        if plan is None:
            return self.dense(*inputs)
        if self.path not in plan.nodes:
            return plan.constant(self, inputs)
        state = plan.begin_node(self.path)
        result = plan.run(state, state.kernel.run, self, state, inputs, plan)
        if plan.checker is not None:
            plan.checker.note(self, inputs, result)
        return result

    def picks(self, inputs: Sequence[Any]) -> bool:
        """Whether it only takes a tensor out of a nest of them, which changes nothing."""
        return isinstance(self.head, GetItem) and isinstance(inputs[0], (tuple, list, dict))

    def dense(self, *inputs: Any) -> Any:
        return self.dense_stages(inputs)

    def dense_stages(self, inputs: Sequence[Any], start: int = 0, stop: int | None = None, value: Any = None) -> Any:
        """The result of stages `start` to `stop`, beginning with `value`."""
        for stage in self.stages[start:stop]:
            value = stage.op(*stage.pick(inputs, value))
        return value

    def candidates(self, masks: Sequence[Any], inputs: Sequence[Any], output: Any) -> Any:
        """The mask rule of the whole chain: the head's, united with those of the later stages' own inputs."""
        mask = None
        for index, stage in enumerate(self.stages):
            operands = stage.pick(masks, mask)
            if any(m is not None for m in pytree.tree_leaves(operands)):
                mask = stage.op.candidates(operands, inputs[: len(operands)] if index == 0 else (), output)
        return mask

    def linear_stages(self, deltas: Sequence[bool]) -> int:
        """How many of the leading stages together are linear in the inputs flagged as deltas."""
        chain = False
        for index, stage in enumerate(self.stages):
            flags = stage.pick(deltas, chain)
            chain = any(flags)
            if chain and not stage.op.is_linear(flags):
                return index
        return len(self.stages)


class DenseToDelta(FrameModule):
    """An input of the graph: compares the frame with what was propagated last and gives the first delta."""

    levels: Tensor  # a buffer, with `preprocess`

    def __init__(self, path: str, rank: int | None = None):
        super().__init__(path)
        self.rank = rank  # of the frame, where the operators that read it tell
        self.gate: Any = None
        self.payload = "value"
        self.preprocess: Preprocess | None = None

    def set_preprocess(self, preprocess: Preprocess, dtype: torch.dtype, device: torch.device) -> None:
        """Frames come raw from now on, on the device of the weights."""
        self.preprocess = preprocess
        self.register_buffer("levels", preprocess.levels(dtype).to(device), persistent=False)

    def values(self, frames: Tensor) -> Tensor:
        """The dense input for raw frames."""
        assert self.preprocess is not None
        return self.preprocess.values(frames, self.levels)

    def forward(self, frame: Any) -> Any:
        plan = self.plan
        if plan is None:
            refuse_export()  # torch.export walks over the graph by itself
            return frame if self.preprocess is None else self.values(self.preprocess.frames(frame))
        if self.preprocess is not None:
            frame = self.preprocess.frames(frame)
        state = plan.begin_node(self.path)
        result = plan.run(state, state.kernel.run_input, self, state, frame, plan)
        if plan.checker is not None:
            plan.checker.note(self, [frame], result)
        return result

    def extra_repr(self) -> str:
        return f"gate={self.gate}" if self.gate else ""


class DeltaToDense(FrameModule):
    """An output of the graph: the dense result, which belongs to the caller."""

    def __init__(self, path: str):
        super().__init__(path)

    def forward(self, result: Any) -> Any:
        plan = self.plan
        if plan is None:
            return result
        state = plan.begin_node(self.path)
        dense = state.kernel.run_output(self, state, result, plan)
        if isinstance(result, Delta):
            return self.leave(result, dense, plan)
        deltas, tensors = pytree.tree_leaves(result), pytree.tree_flatten(dense)
        left = [self.leave(delta, x, plan) for delta, x in zip(deltas, tensors[0], strict=True)]
        return pytree.tree_unflatten(left, tensors[1])

    def leave(self, delta: Any, dense: Any, plan: Any) -> Any:
        """What the caller gets; a tensor says which of its pixels changed."""
        own = dense
        if plan.copies_outputs and isinstance(dense, Tensor):
            own = dense.clone(memory_format=plan.output_format)
        if isinstance(delta, Delta):
            hand_over(own, dense, delta.mask, plan.clock)
        return own
