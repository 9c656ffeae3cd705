"""The runtime: the one object on which everything mutable of a converted graph hangs."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from deltafx.background import BackgroundRefresh
from deltafx.buffers import bind_buffers
from deltafx.check import Checker
from deltafx.errors import FrameError
from deltafx.frame_graph import can_be_captured
from deltafx.plan import Plan, bind_arguments
from deltafx.settings import Settings
from deltafx.state import UPDATED_SUM
from deltafx.survey import survey
from deltafx.touched import TouchedRefresh

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
        self.lock = threading.Lock()
        self.start_over()

    def start_over(self) -> None:
        """Forget every plan: the next frame is the first."""
        self.plans: list[Plan] = []
        self.call, self.calls = 0, 1  # within one frame of the model: number of this one, and how many there are
        self.streams: int | None = None
        self.weights: Weights | None = None
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
            "forced_mask",
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

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with alone(self.lock):
            try:
                yield
            finally:
                self.running = None

    @contextlib.contextmanager
    def frame(self, graph_module: fx.GraphModule, args: tuple, kwargs: dict[str, Any]) -> Iterator[list[Any]]:
        """Run the body as one frame: checks first, then the plan, then every stream marked until the end.

        Gives the value of each of the graph's placeholders.
        """
        # State outlives inference_mode, and what is returned may be used outside of it.
        with self.alone(), torch.inference_mode(False), torch.no_grad():
            given = bind_arguments(graph_module, args, kwargs)
            inputs = given if self.settings.preprocess is None else self.settings.preprocess.read(given)
            leaves, spec = pytree.tree_flatten(inputs)
            self.check(graph_module, inputs, leaves)
            plan = self.plan_for(graph_module, given, leaves, spec)
            every = self.settings.refresh_every
            if every and plan.since_reset % every == 0:
                plan.reset_streams()
            plan.begin(leaves, self.forced_mask)
            self.running = plan
            yield given
            plan.end()
            self.warn_of_noise(plan)

    def plan_for(self, graph_module: fx.GraphModule, inputs: list[Any], leaves: list[Any], spec: Any) -> Plan:
        """The plan for these arguments, the most recently used first; a new one if none fits.

        `inputs` is what the graph is called with, `leaves` what `dense_to_delta` makes of it.
        """
        plan = next((plan for plan in self.plans if plan.call == self.call and plan.fits(leaves, spec)), None)
        if plan is None:
            scales = self.later_scales.setdefault(self.call, {}) if self.call else self.scales
            background = background_of(self.settings)
            options = self.settings.options
            plan = Plan(leaves, spec, streams_of(leaves), scales, options, self.call, self.of_gates, background)
            self.survey(graph_module, plan, inputs)
            self.make_room(plan.predicted_bytes)
            bind_buffers(graph_module, plan, inputs)
            plan.checker = Checker() if self.settings.options.check else None
            plan.captures = self.settings.options.cuda_graph and can_be_captured(graph_module, plan)
        self.streams = plan.streams
        self.plans = [plan, *(other for other in self.plans if other is not plan)][: KEPT_PLANS * self.calls]
        return plan

    def survey(self, graph_module: fx.GraphModule, plan: Plan, inputs: list[Any]) -> None:
        try:
            survey(graph_module, plan, inputs)
        except RuntimeError as error:
            # Integer frames are right for a model that converts them; PyTorch's complaint about others is obscure.
            assert self.weights is not None
            dtype = self.weights.dtype
            images = [value for _, value in images_of(graph_module, inputs) if value.dtype != dtype]
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
            self.plans.pop()

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
            if autocasts(tensor.device):
                raise FrameError(
                    "autocast is on; a remembered value has one dtype. Convert the model (model.half(), "
                    "model.bfloat16()) and call it outside of autocast."
                )
            if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype:
                raise FrameError(
                    f"the frame is {tensor.dtype} and the weights are {dtype}; convert one of them, for example "
                    f"frame.to({dtype})."
                )
        for node, value in images_of(graph_module, inputs):
            rank = node.meta["rank"]
            if value.dim() != rank:
                hint = " Add the batch dimension: frame.unsqueeze(0)." if value.dim() == rank - 1 else ""
                raise FrameError(
                    f"input {node.target!r} has shape {tuple(value.shape)}; the model reads {rank} dimensions, the "
                    f"first of which is the streams.{hint}"
                )
        if self.streams is not None and streams_of(leaves) != self.streams:
            raise FrameError(
                f"the frame has {streams_of(leaves)} streams (its batch dimension) and the state has {self.streams}; "
                f"each stream is one camera. Call deltafx.reset(dm) to start over with another number."
            )

    def warn_of_noise(self, plan: Plan) -> None:
        """Once, in exact mode: a camera whose noise changes every pixel saves nothing."""
        if self.warned_of_noise or not self.settings.is_exact or plan.counted_frames != NOISE_FRAMES:
            return
        counted = plan.counted_frames - plan.full_frames  # what a refresh updates is not the camera's doing
        leaves = [leaf for node in plan.inputs for leaf in node.leaves]
        updated = [leaf.tally[UPDATED_SUM].item() / leaf.pixels for leaf in leaves]
        rates = [(frames - plan.full_frames) / counted for frames in updated if counted]
        if rates and max(rates) > NOISE_RATE:
            self.warned_of_noise = True
            warnings.warn(
                f"deltafx: {100 * max(rates):.0f} % of the input's pixels changed from frame to frame (the mean of "
                f"{NOISE_FRAMES} frames), so almost everything was computed again. On a fixed camera that is usually "
                f'noise: try deltafx.convert(model, mode="balanced"), or calibrate thresholds.',
                stacklevel=4,
            )

    # -- what the user asks for ---------------------------------------------------------------------------------------

    def reset(self, streams: list[int] | None) -> None:
        with self.alone():
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


def background_of(settings: Settings) -> BackgroundRefresh | TouchedRefresh | None:
    if settings.refresh_touched is not None:
        return TouchedRefresh(settings.refresh_touched)
    return None if settings.refresh_within is None else BackgroundRefresh(settings.refresh_within)


@contextlib.contextmanager
def alone(lock: threading.Lock) -> Iterator[None]:
    """The state belongs to one sequence of frames: whoever comes while it is in use is refused."""
    if not lock.acquire(blocking=False):
        raise FrameError(
            "this converted model is already running a frame, in another thread or further up the stack; its state "
            "belongs to one sequence of frames. Convert, or copy.deepcopy, the model once for each thread."
        )
    try:
        yield
    finally:
        lock.release()


def images_of(graph_module: fx.GraphModule, inputs: list[Any]) -> list[tuple[fx.Node, Tensor]]:
    """The inputs whose rank is fixed by the layers that read them."""
    pairs = zip(graph_module.graph.find_nodes(op="placeholder"), inputs, strict=True)
    return [(node, x) for node, x in pairs if node.meta.get("rank") is not None and isinstance(x, Tensor)]


def autocasts(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def streams_of(leaves: list[Any]) -> int:
    """The number of streams: the first dimension of the tensor of largest rank, and of those of the largest one."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    frame = max(tensors, key=lambda tensor: (tensor.dim(), tensor.numel()))
    return frame.shape[0] if frame.dim() else 1
