"""The runtime: the one object on which everything mutable of a converted graph hangs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from deltafx.backends import frame_program
from deltafx.background import BackgroundRefresh
from deltafx.buffers import bind_buffers
from deltafx.check import Checker
from deltafx.errors import FrameError
from deltafx.frame_graph import can_be_captured, frame_graph
from deltafx.guards import FrameLock, OrdinaryTensors
from deltafx.node import refuse_symbolic
from deltafx.plan import Plan
from deltafx.settings import Settings
from deltafx.signature import Signature
from deltafx.survey import survey
from deltafx.touched import TouchedRefresh
from deltafx.update_rate import UpdateRate

KEPT_PLANS = 4
NOISE_FRAMES, NOISE_RATE = 30, 0.8


@dataclass(frozen=True)
class Weights:
    """What a frame must have in common with the weights; None where they differ among themselves or there are none."""

    dtype: torch.dtype | None
    device: torch.device | None

    @classmethod
    def of(cls, module: nn.Module) -> Weights:
        parameters = [p for p in module.parameters() if p.is_floating_point()]
        dtypes, devices = {p.dtype for p in parameters}, {p.device for p in parameters}
        return cls(dtypes.pop() if len(dtypes) == 1 else None, devices.pop() if len(devices) == 1 else None)


class Runtime(nn.Module):
    """Plans, the running frame, and the scales that thresholds were measured against.

    It is a submodule of the graph module, so that copying and saving reach it; it has no parameters. Both leave the
    plans, which are frame state, behind and keep the scales.
    """

    # nn.Module's looks for parameters, which costs more than all else that is noted in a frame.
    __setattr__ = object.__setattr__  # type: ignore[assignment]

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.scales: dict[str, float] = {}  # by node: root mean square of its first full output, or its grey level
        self.later_scales: dict[int, dict[str, float]] = {}  # of a graph that is called again within a frame, by call
        self.of_gates: dict[str, Tensor] = {}  # what those that adapt have learned, by input
        self.idle()

    def idle(self) -> None:
        """As it is before the first frame; no frame is running."""
        self.running: Plan | None = None
        self.forced_mask: Tensor | None = None
        self.forces_gates = True
        self.lock = FrameLock()
        self.plans: list[Plan] = []
        self.start_over()

    def start_over(self) -> None:
        """Forget every plan: the next frame is the first."""
        self.keep_plans(0)
        self.call, self.calls = 0, 1  # within one frame of the model: number of this one, and how many there are
        self.streams: int | None = None
        self.weights: Weights | None = None
        self.signature: Signature | None = None
        self.warned_of_noise = False

    def forget_weights(self) -> None:
        """Other weights are loaded: what was measured with the old ones says nothing of them."""
        self.start_over()
        self.scales, self.later_scales = {}, {}

    def __getstate__(self) -> dict[str, Any]:
        transient = (
            "plans",
            "running",
            "streams",
            "weights",
            "signature",
            "forced_mask",
            "forces_gates",
            "warned_of_noise",
            "lock",
            "call",
            "calls",
        )
        return {name: value for name, value in self.__dict__.items() if name not in transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.idle()

    # -- a frame ------------------------------------------------------------------------------------------------------

    def run(self, graph_module: fx.GraphModule, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One frame of `graph_module`, whose generated code is `forward`: what a call of it with these arguments gives.

        Checks come first, then the plan; from there to the end every stream is marked.
        """
        with self.lock, OrdinaryTensors():
            starts = self.streams is None
            try:
                if self.signature is None:
                    self.signature = Signature.of(graph_module.graph)
                given = self.signature.bind(args, kwargs)
                inputs = self.read(given)
                plan = self.plan_at_hand(inputs)
                if plan is None:
                    plan, inputs = self.plan_for(graph_module, given, inputs)
                every = self.settings.refresh_every
                if every and plan.since_reset % every == 0:
                    plan.reset_streams()
                plan.begin(inputs, self.forced_mask, self.forces_gates)
                self.running = plan
                whole = frame_graph(graph_module, plan) or frame_program(graph_module, plan)
                result = forward(graph_module, *args, **kwargs) if whole is None else whole.run(given)
                plan.end()
                self.warn_of_noise(plan)
                return result
            except BaseException:
                if starts:
                    self.streams = None  # any number of them may come next
                raise
            finally:
                self.running = None

    def read(self, given: list[Any]) -> list[Any]:
        """What `dense_to_delta` makes of the placeholders' values."""
        if self.settings.preprocess is None:
            return given
        refuse_symbolic(given[:1])
        return self.settings.preprocess.read(given)

    def plan_at_hand(self, inputs: list[Any]) -> Plan | None:
        """The plan of frames like this one, if it is seen at a glance, and that `check` would find nothing.

        Of what that looks at, all but autocast and the number of streams was settled when the plan was made.
        """
        for plan in self.plans:
            if plan.call == self.call and plan.takes(inputs):
                if self.streams not in (None, plan.streams) or plan.meets_autocast():
                    return None
                self.use(plan)
                return plan
        return None

    def use(self, plan: Plan) -> None:
        """It is the one used most recently."""
        self.streams = plan.streams
        if not self.plans or self.plans[0] is not plan:
            self.plans = [plan, *(other for other in self.plans if other is not plan)]
            self.keep_plans(KEPT_PLANS * self.calls)

    def keep_plans(self, count: int) -> None:
        """Those used most recently."""
        for plan in self.plans[count:]:
            plan.release()
        del self.plans[count:]

    def plan_for(self, graph_module: fx.GraphModule, given: list[Any], inputs: list[Any]) -> tuple[Plan, list[Any]]:
        """The plan for these arguments, a new one if none fits, and the leaves of `inputs`; after all checks.

        `given` is what the graph is called with, `inputs` what `dense_to_delta` makes of it.
        """
        leaves, spec = pytree.tree_flatten(inputs)
        refuse_symbolic(leaves)
        self.check(graph_module, inputs, leaves)
        plan = next((plan for plan in self.plans if plan.call == self.call and plan.fits(leaves, spec)), None)
        if plan is None:
            plan = self.new_plan(graph_module, given, leaves, spec)
        self.use(plan)
        return plan, leaves

    def new_plan(self, graph_module: fx.GraphModule, given: list[Any], leaves: list[Any], spec: Any) -> Plan:
        scales = self.later_scales.setdefault(self.call, {}) if self.call else self.scales
        background = background_of(self.settings)
        options = self.settings.options
        plan = Plan(leaves, spec, streams_of(leaves), scales, options, self.call, self.of_gates, background)
        if any(map(is_channels_last, [*leaves, *graph_module.parameters()])):
            plan.output_format = torch.preserve_format  # that of the buffers, as the dense network would give it
        self.survey(graph_module, plan, given)
        self.make_room(plan.predicted_bytes)
        bind_buffers(graph_module, plan, given)
        plan.checker = Checker() if self.settings.options.check else None
        plan.captures = self.settings.options.cuda_graph and can_be_captured(graph_module, plan)
        return plan

    def survey(self, graph_module: fx.GraphModule, plan: Plan, inputs: list[Any]) -> None:
        try:
            survey(graph_module, plan, inputs)
        except RuntimeError as error:
            # Integer frames are right for a model that converts them; PyTorch's complaint about others is obscure.
            assert self.weights is not None
            dtype = self.weights.dtype
            assert self.signature is not None
            images = [value for _, _, value in self.signature.images(inputs) if value.dtype != dtype]
            if dtype is None or not images:
                raise
            raise FrameError(
                f"the frame is {images[0].dtype}, the weights are {dtype}, and the model does not convert it: {error}. "
                f"Convert the frame as in training, for example frame.to({dtype}) / 255."
            ) from error

    def make_room(self, needed: int) -> None:
        """Keep to `max_state_bytes`: drop the plans used longest ago, and refuse what does not fit even so."""
        limit = self.settings.options.max_state_bytes
        if limit is None:
            return
        if needed > limit:
            raise FrameError(
                f"the state for frames of this shape takes {needed:,} bytes; options={{'max_state_bytes': {limit}}} "
                f"allows less. Use smaller frames, fewer streams or a smaller dtype."
            )
        while sum(plan.predicted_bytes for plan in self.plans) + needed > limit:
            self.keep_plans(len(self.plans) - 1)

    def check(self, graph_module: fx.GraphModule, inputs: list[Any], leaves: list[Any]) -> None:
        """Refuse a frame that cannot be run, before anything is touched."""
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors:
            kinds = ", ".join(type(leaf).__name__ for leaf in leaves) or "nothing"
            raise FrameError(f"a frame is a torch.Tensor (or several); got {kinds}.")
        if self.weights is None:
            self.weights = Weights.of(graph_module)
        dtype, device = self.weights.dtype, self.weights.device
        for tensor in tensors:
            if tensor.numel() == 0:
                raise FrameError(f"a frame of shape {tuple(tensor.shape)} has no pixels; skip it.")
            if device is not None and tensor.device != device:
                raise FrameError(
                    f"the frame is on {tensor.device} and the weights are on {device}; move one of them, for example "
                    f"frame.to({str(device)!r})."
                )
            refuse_autocast({tensor.device})
            if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype:
                raise FrameError(
                    f"the frame is {tensor.dtype} and the weights are {dtype}; convert one of them, for example "
                    f"frame.to({dtype})."
                )
        assert self.signature is not None
        for name, rank, kind in self.signature.others(inputs):
            raise FrameError(
                f"input {name!r} is a {kind}; the graph reads a tensor of {rank} dimensions. Convert the model with "
                f"example_inputs of the kind that it is called with."
            )
        for name, rank, value in self.signature.images(inputs):
            if value.dim() != rank:
                hint = " Add the batch dimension: frame.unsqueeze(0)." if value.dim() == rank - 1 else ""
                raise FrameError(
                    f"input {name!r} has shape {tuple(value.shape)}; the model reads {rank} dimensions, the "
                    f"first of which is the streams.{hint}"
                )
        if self.streams is not None and streams_of(leaves) != self.streams:
            raise FrameError(
                f"the frame has {streams_of(leaves)} streams (its batch dimension) and the state has {self.streams}; "
                f"each stream is one camera. Call deltafx.reset(dm) to start over with another number."
            )

    def warn_of_noise(self, plan: Plan) -> None:
        """Once, in exact mode: a camera whose noise changes every pixel saves nothing.

        On a GPU the counts are read some frames later, when they are there without waiting.
        """
        if self.warned_of_noise or not self.settings.is_exact:
            return
        if plan.counted_frames == NOISE_FRAMES > plan.full_frames and plan.inputs:
            plan.update_rate = UpdateRate(plan)
        rate = None if plan.update_rate is None else plan.update_rate.take()
        if rate is None:
            return
        plan.update_rate = None
        if rate > NOISE_RATE:
            self.warned_of_noise = True
            warnings.warn(
                f"deltafx: {100 * rate:.0f} % of the input's pixels changed from frame to frame (the mean of "
                f"{NOISE_FRAMES} frames), so almost everything was computed again. On a fixed camera that is usually "
                f'noise: try deltafx.convert(model, mode="balanced"), or calibrate thresholds.',
                stacklevel=3,
            )

    # -- what the user asks for ---------------------------------------------------------------------------------------

    def reset(self, streams: list[int] | None) -> None:
        with self.lock:
            if streams is None:
                self.streams = None
                for learned in self.of_gates.values():
                    learned.zero_()
                for plan in self.plans:
                    plan.reset()
                return
            if self.streams is None:
                return  # no frame yet: the first one is in full
            wrong = [s for s in streams if not 0 <= s < self.streams]
            if wrong:
                raise ValueError(f"reset: streams {wrong} do not exist; there are {self.streams}, numbered from 0.")
            for learned in self.of_gates.values():
                learned[streams] = 0
            for plan in self.plans:
                if plan.streams == self.streams:
                    plan.reset_streams(streams)


def is_channels_last(x: Any) -> bool:
    if not isinstance(x, Tensor) or x.dim() != 4 or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


def background_of(settings: Settings) -> BackgroundRefresh | TouchedRefresh | None:
    if settings.refresh_touched is not None:
        return TouchedRefresh(settings.refresh_touched)
    return None if settings.refresh_within is None else BackgroundRefresh(settings.refresh_within)


def refuse_autocast(devices: set[torch.device]) -> None:
    if any(map(autocasts, devices)):
        raise FrameError(
            "autocast is on; a remembered value has one dtype. Convert the model (model.half(), model.bfloat16()) and "
            "call it outside of autocast."
        )


def autocasts(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def streams_of(leaves: list[Any]) -> int:
    """The number of streams: the first dimension of the tensor of largest rank, and of those of the largest one."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    frame = max(tensors, key=lambda tensor: (tensor.dim(), tensor.numel()))
    return frame.shape[0] if frame.dim() else 1
