"""A plan: everything that depends on the shape of the frames, filled from the first frame of that shape."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from deltafx.background import BackgroundRefresh
from deltafx.check import Checker
from deltafx.errors import NoDeltaForm
from deltafx.gate import LEARNED, InputGate, infer_grey_level
from deltafx.handover import Clock
from deltafx.node import DeltaNode, DenseToDelta
from deltafx.profile import timer_for
from deltafx.settings import Options
from deltafx.state import Form, Leaf, NodeState, quantizer_of
from deltafx.touched import TouchedRefresh
from deltafx.truncation import Truncation, root_mean_square
from deltafx.update_rate import UpdateRate


class Plan:
    """Buffers and facts for frames of one shape, and what is known of the frame that is running.

    `stale` flags, on the device, the streams that the next frame must refresh, and `rows` those that the running frame
    refreshes. A frame that did not end leaves all of them stale. What the host knows of the flags is not written again.
    """

    def __init__(
        self, leaves: list[Any], spec: Any, streams: int, scales: dict[str, float], options: Options, call: int = 0,
        of_gates: dict[str, Tensor] | None = None, background: BackgroundRefresh | TouchedRefresh | None = None,
    ):  # fmt: skip
        self.leaves = [form_of(leaf) for leaf in leaves]
        self.spec = spec
        self.streams = streams
        self.call = call  # of the graph, within a frame
        self.copies_outputs = options.copy_outputs
        self.output_format = torch.contiguous_format
        self.scales = scales
        self.of_gates = {} if of_gates is None else of_gates
        self.background = background
        self.nodes: dict[str, NodeState] = {}
        self.inputs: list[NodeState] = []  # those of the dense_to_delta nodes
        self.predicted_bytes = 0
        self.constants: dict[str, Any] = {}
        tensors = [(index, x) for index, x in enumerate(leaves) if isinstance(x, Tensor)]
        self.shared = [(index, x.clone()) for index, x in tensors if not self.has_streams(x.shape)]
        self.nested = spec.num_nodes > len(leaves) + 1  # an argument is more than one leaf, or none
        self.autocast_of = {x.device.type for _, x in tensors if torch.amp.is_autocast_available(x.device.type)}
        device = next((x.device for x in leaves if isinstance(x, Tensor)), torch.device("cpu"))
        self.stale = torch.ones(streams, dtype=torch.bool, device=device)
        self.timer = timer_for(device) if options.profile else None
        self.rows = self.stale.clone()
        self.stale_clear = self.rows_clear = False  # it is known that none is flagged
        self.unfinished = False
        self.full = False  # the running frame is known on the host to refresh every stream
        self.full_next = True
        self.frame = 0
        self.began = 0  # with which frame the rounds of refreshes begin: the first since the last reset
        self.clock = Clock()
        self.counted_frames = 0  # since the last reset
        self.full_frames = 0  # of those, the ones that refreshed every stream
        self.arguments: list[Any] = []  # of the running frame
        self._pictured: bool | None = None
        self.non_finite = torch.zeros_like(self.stale)
        self.differs = False  # whether a difference may have flagged `non_finite`
        self.forced_mask: Tensor | None = None
        self.forces_gates = True
        self.checker: Checker | None = None
        self._given: Tensor | None = None  # what `forced_mask` was made of, and `_pooled` from it
        self._pooled: dict[tuple[int, ...], Tensor] = {}
        self.captures = False  # frames, as CUDA graphs; settled when the kernels are bound
        self.frame_graph: Any = None
        self.frame_program: Any = None
        self.update_rate: UpdateRate | None = None  # once it is asked for
        self.runs_programs = options.frame_program
        self.switches_to_dense = options.dense_switch
        self.last_forced: Tensor | None = None
        self.scratch: dict[Any, Any] = {}  # temporaries of the kernels, which live while one node runs

    def release(self) -> None:
        """Let go of what refers back to it, so that its memory is free as soon as nobody has it."""
        self.frame_graph = self.frame_program = self.timer = None

    @property
    def profiles(self) -> bool:
        """Whether nodes are timed."""
        return self.timer is not None

    # -- what a frame is matched against ------------------------------------------------------------------------------

    def fits(self, leaves: list[Any], spec: Any) -> bool:
        """Whether this plan is for arguments of these shapes and values."""
        if spec != self.spec or len(leaves) != len(self.leaves):
            return False
        return all(same_argument(mine, leaf) for mine, leaf in zip(self.leaves, leaves, strict=True))

    def takes(self, inputs: list[Any]) -> bool:
        """Whether `inputs` are what this plan is for, as far as that is seen at a glance: none is nested, and each is a
        tensor or a plain value."""
        return not self.nested and len(inputs) == len(self.leaves) and all(map(same_at_a_glance, self.leaves, inputs))

    def meets_autocast(self) -> bool:
        return any(map(torch.is_autocast_enabled, self.autocast_of))

    def has_streams(self, shape: torch.Size) -> bool:
        return len(shape) > 0 and shape[0] == self.streams

    # -- the course of a frame ----------------------------------------------------------------------------------------

    def begin(self, leaves: list[Any], forced_mask: Tensor | None, forces_gates: bool = True) -> None:
        """Settle which streams this frame refreshes."""
        if self.unfinished:
            self.reset_streams()
        for index, kept in self.shared:
            self.stale |= ~(kept == leaves[index]).all()
            self.stale_clear = False
            kept.copy_(leaves[index])
        self.clock.time += 1
        if not (self.stale_clear and self.rows_clear):
            self.rows.copy_(self.stale)
            self.rows_clear = self.stale_clear
        self.unfinished = True
        self.full, self.full_next = self.full_next, True
        self.arguments, self._pictured = leaves, None
        self.forces_gates = forces_gates
        if forced_mask is not self._given:
            self._given = forced_mask
            self._pooled.clear()
            self.forced_mask = None
            if forced_mask is not None:
                self.forced_mask = forced_mask.to(self.stale.device).expand(self.streams, -1, -1)
        if self.checker is not None:
            self.checker.begin()
        if self.background is not None:
            if self.forced_mask is None:
                self.background.begin(self.since_reset)
            else:
                self.background.rest()

    def end(self) -> None:
        """The frame ran to its end: only streams that met a non-finite difference stay to be refreshed."""
        if self.background is not None:
            inputs = [leaf for node in self.inputs for leaf in node.leaves]
            self.background.note(inputs, None if self.rows_clear else self.rows)
        if self.checker is not None:
            self.checker.finish(self)
        if self.differs:
            self.stale.copy_(self.non_finite)
            self.non_finite.fill_(False)
            self.differs = self.stale_clear = False
        elif not self.stale_clear:
            self.stale.fill_(False)
            self.stale_clear = True
        self.unfinished = self.full_next = False
        self.arguments = []
        self.frame += 1
        self.counted_frames += 1
        self.full_frames += self.full
        if self.timer is not None:
            self.timer.end_frame()

    def reset(self) -> None:
        """Start over: the next frame is in full, and counts begin with it."""
        self.reset_streams()
        self.forget_counts()
        self.began = self.frame

    @property
    def since_reset(self) -> int:
        """The number of the running frame."""
        return self.frame - self.began

    def forget_counts(self) -> None:
        """The means of the report begin with the next frame."""
        if self.timer is not None:
            self.timer.settle()
        self.counted_frames = self.full_frames = 0
        for node in self.nodes.values():
            node.forget_counts()

    def reset_streams(self, streams: list[int] | None = None) -> None:
        """Refresh some streams, or all, in the next frame."""
        self.stale_clear = False
        if streams is None:
            self.stale.fill_(True)
            self.full_next = True
        else:
            self.stale[streams] = True

    # -- what the kernels ask -----------------------------------------------------------------------------------------

    def begin_node(self, path: str) -> NodeState:
        """The state of a node that is about to run in this frame."""
        state = self.nodes[path]
        rows = self.rows if state.last_frame == self.frame - 1 else torch.ones_like(self.rows)
        state.rows = rows if state.aligned else rows.any()
        state.last_frame = self.frame
        return state

    def run(self, state: NodeState, kernel: Callable, *args: Any) -> Any:
        """A kernel's result; with profiling, the time that it takes is noted."""
        return kernel(*args) if self.timer is None else self.timer.run(state, kernel, *args)

    def constant(self, node: DeltaNode, inputs: Any) -> Any:
        """The value of a node that does not depend on the frame."""
        return self.constants[node.path] if node.path in self.constants else node.dense(*inputs)

    def full_refresh(self) -> Tensor:
        return self.rows.all()

    def flag_non_finite(self, payload: Tensor, state: NodeState) -> None:
        """Refresh a stream in the next frame: a non-finite difference would stay in every accumulator."""
        self.differs = True
        if state.aligned:
            self.non_finite |= ~payload.isfinite().reshape(self.streams, -1).all(1)
        else:
            self.non_finite |= ~payload.isfinite().all()

    def withholds(self, node: DeltaNode) -> bool:
        return node.truncation is not None and (node.truncation.threshold.value > 0)

    def threshold(self, state: NodeState, leaf: Leaf, truncation: Truncation) -> float | None:
        """The threshold in units of the tensor, or None for 0 and while it is not measured."""
        if truncation.threshold.absolute or truncation.threshold.value == 0:
            return truncation.threshold.value or None
        return truncation.threshold.value * self.scales.get(scale_name(state, leaf), 0.0) or None

    def measure(self, state: NodeState, leaf: Leaf, truncation: Truncation, new: Tensor) -> None:
        """A threshold that is a share is measured once, on the first picture; `new` is the node's whole output."""
        if truncation.threshold.absolute or truncation.threshold.value == 0:
            return
        key = scale_name(state, leaf)
        if key not in self.scales and new.is_floating_point() and self.has_picture():
            scale = root_mean_square(new)
            if scale < float("inf"):
                self.scales[key] = scale

    def grey_level(self, path: str, gate: InputGate, frame: Tensor) -> float:
        if gate.grey_level is not None:
            return gate.grey_level
        key = f"{path}:grey_level"
        if key in self.scales:
            return self.scales[key]
        level = infer_grey_level(frame)
        if self.has_picture():
            self.scales[key] = level
        return level

    def learned(self, node: DenseToDelta) -> Tensor | None:
        """What an input's gate has learned of each stream, `[N, LEARNED]`; None if it does not adapt."""
        if node.gate is None or not node.gate.adapts:
            return None
        path = f"{node.path}@{self.call + 1}" if self.call else node.path
        kept = self.of_gates.get(path)
        if kept is None or len(kept) != self.streams:
            kept = torch.zeros(self.streams, LEARNED)
        if kept.device != self.stale.device:
            kept = kept.to(self.stale.device)
        self.of_gates[path] = kept
        return kept

    def known_changes(self, node: DenseToDelta, leaf: Leaf, frame: Tensor) -> Tensor | None:
        """The mask of what changed in an input since the last frame, if the graph that it comes from has told."""
        if self.forced_mask is not None or leaf.raw is not None or (node.gate is not None and frame.dim() == 4):
            leaf.follower.forget()  # it may be left behind
            return None
        return leaf.follower.changed(frame, leaf.pixel)

    def has_picture(self) -> bool:
        """Whether anything can be measured on this frame: it is finite, and not all black or of one colour.

        It is asked until everything is measured, which the first picture settles: only then the device is waited for.
        """
        if self._pictured is None:
            frames = [x for x in self.arguments if isinstance(x, Tensor) and self.has_streams(x.shape)]
            self._pictured = all(bool(x.isfinite().all()) for x in frames) and any(map(has_contrast, frames))
        return self._pictured

    def forced(self, candidates: Tensor) -> Tensor | None:
        """The decision that `force_masks` prescribes for a grid, or None where it has none for this layout."""
        if self.forced_mask is None:
            return None
        shape = tuple(candidates.shape)
        if len(shape) == 4 and shape[1] == 1:
            grid: tuple[int, ...] = shape[2:]
        elif len(shape) == 4 and shape[3] == 1:
            grid = shape[1:3]
        elif all(size == 1 for size in shape[1:]) and shape[:1] == (self.streams,):
            grid = (1, 1)
        else:
            return None
        if grid == (1, 1) and not self.forces_gates:
            return None
        if grid not in self._pooled:
            self._pooled[grid] = F.adaptive_max_pool2d(self.forced_mask.float().unsqueeze(1), grid).to(torch.uint8)
        return self._pooled[grid].view(shape) if shape[0] == self.streams else None

    def check_result(self, path: str, state: NodeState, result: Any) -> None:
        """Refuse a result that is not of the form that the plan was made for."""
        met, spec = pytree.tree_flatten(result)
        kept, kept_spec = pytree.tree_flatten(state.nest)
        forms = [leaf.form if isinstance(leaf, Leaf) else leaf for leaf in kept]
        if spec != kept_spec:
            now, before = f"{len(met)} values", f"{len(kept)}"
        else:
            others = [(x, form) for x, form in zip(met, forms, strict=True) if not same_argument(form, x)]
            if not others:
                return
            now, before = (str(form_of(x)) for x in others[0])
        raise NoDeltaForm(
            f"{path}: its output is {now} in this frame and was {before} before; an output whose form depends on the "
            f"picture has no delta form. Convert the part of the model before it. The next frame starts in full."
        )

    @property
    def bytes(self) -> int:
        """What the buffers take. Some are parts of others."""
        storages = {t.untyped_storage() for node in self.nodes.values() for t in node.tensors()}
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def scale_name(state: NodeState, leaf: Leaf) -> str:
    """Under which name the scale of an output is kept; of several outputs, all but the first have a number."""
    return state.path if state.leaves[0] is leaf else f"{state.path}[{state.leaves.index(leaf)}]"


# ---------------------------------------------------------------------------------------------------------------------
# Arguments


def form_of(argument: Any) -> Any:
    """What a plan fixes of an argument. What is not a tensor is copied: the caller may change it in place."""
    if isinstance(argument, Form):
        return argument
    if isinstance(argument, Tensor):
        return Form(argument.shape, argument.dtype, argument.device, quantizer_of(argument))
    return copy.deepcopy(argument)


PLAIN = frozenset((bool, int, float, str, type(None)))


def same_at_a_glance(mine: Any, x: Any) -> bool:
    """`same_argument`, or no where it takes a closer look."""
    kind = type(x)
    if kind is Tensor:
        if type(mine) is not Form or mine.quantizer is not None:
            return False
        return x.shape == mine.shape and x.dtype == mine.dtype and x.device == mine.device
    return kind in PLAIN and kind is type(mine) and x == mine


def same_argument(mine: Any, leaf: Any) -> bool:
    if isinstance(leaf, Tensor) or isinstance(mine, Form):
        return bool(mine == form_of(leaf))
    try:
        return type(mine) is type(leaf) and bool(mine == leaf)
    except (ValueError, RuntimeError):  # arrays, which are compared by element
        return False


def has_contrast(frame: Tensor) -> bool:
    """Whether some pixel of a channel differs from another or, without spatial dimensions, anything is not 0."""
    if frame.dim() < 3:
        return bool(frame.any())
    pixels = frame.flatten(2)
    return bool((pixels != pixels[..., :1]).any())
