"""The runtime: the one object on which everything mutable of a converted graph hangs."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from deltafx.check import Checker
from deltafx.errors import FrameError
from deltafx.plan import Plan, bind_arguments
from deltafx.settings import Settings
from deltafx.specialise import specialise

KEPT_PLANS = 4
NOISE_FRAMES, NOISE_RATE = 30, 0.8


class Runtime(nn.Module):
    """Plans, the running frame, and the scales that thresholds were measured against.

    It is a submodule of the graph module, so that whatever moves or converts the module reaches it; it has no
    parameters. Copying or saving it leaves the plans, which are frame state, behind and keeps the scales.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.scales: dict[str, float] = {}  # by node: root mean square of its first full output, or its grey level
        self.dtype: torch.dtype | None = None  # of the weights; None if they have several or there are none
        self.device: torch.device | None = None
        self.start_over()

    def start_over(self) -> None:
        """Forget every plan: the next frame is the first."""
        self.plans: list[Plan] = []
        self.running: Plan | None = None
        self.streams: int | None = None
        self.forced_mask: Tensor | None = None
        self.warned_of_noise = False
        self.lock = threading.Lock()

    def _apply(self, fn: Any, recurse: bool = True) -> Runtime:
        super()._apply(fn, recurse)
        self.start_over()  # the module was moved or converted: weights must be lowered again
        return self

    def __getstate__(self) -> dict[str, Any]:
        transient = ("plans", "running", "streams", "forced_mask", "warned_of_noise", "lock")
        return {name: value for name, value in self.__dict__.items() if name not in transient}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.start_over()

    # -- a frame ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def frame(self, graph_module: fx.GraphModule, args: tuple, kwargs: dict[str, Any]) -> Iterator[None]:
        """Run the body as one frame: checks first, then the plan, then every stream marked until the end."""
        if not self.lock.acquire(blocking=False):
            raise FrameError(
                "this converted model is already running a frame, in another thread or further up the stack; its state "
                "belongs to one sequence of frames. Convert, or copy.deepcopy, the model once for each thread."
            )
        try:
            # State outlives inference_mode, and what is returned may be used outside of it.
            with torch.inference_mode(False), torch.no_grad():
                inputs = bind_arguments(graph_module, args, kwargs)
                leaves, spec = pytree.tree_flatten(inputs)
                self.check(graph_module, inputs, leaves)
                plan = self.plan_for(graph_module, inputs, leaves, spec)
                every = self.settings.refresh_every
                if every and plan.frame % every == 0:
                    plan.reset_streams()
                plan.begin(leaves, self.forced_mask)
                self.running = plan
                yield
                plan.end()
                self.warn_of_noise(plan)
        finally:
            self.running = None
            self.lock.release()

    def plan_for(self, graph_module: fx.GraphModule, inputs: list[Any], leaves: list[Any], spec: Any) -> Plan:
        """The plan for these arguments, the most recently used first; a new one if none fits."""
        plan = next((plan for plan in self.plans if plan.fits(leaves, spec)), None)
        if plan is None:
            plan = Plan(leaves, spec, streams_of(leaves), self.scales, self.settings.options.copy_outputs)
            specialise(graph_module, plan, inputs, self.settings.options.max_state_bytes)
            plan.checker = Checker() if self.settings.options.check else None
        self.streams = plan.streams
        self.plans = [plan, *(other for other in self.plans if other is not plan)][:KEPT_PLANS]
        return plan

    def check(self, graph_module: fx.GraphModule, inputs: list[Any], leaves: list[Any]) -> None:
        """Refuse a frame that cannot be run, before anything is touched."""
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not tensors:
            kinds = ", ".join(type(leaf).__name__ for leaf in leaves) or "nothing"
            raise FrameError(f"a frame is a torch.Tensor (or several); got {kinds}.")
        for tensor in tensors:
            if torch.is_autocast_enabled(tensor.device.type):
                raise FrameError(
                    "autocast is on; a remembered value has one dtype. Convert the model (model.half(), "
                    "model.bfloat16()) and call it outside of autocast."
                )
            if tensor.numel() == 0:
                raise FrameError(f"a frame of shape {tuple(tensor.shape)} has no pixels; skip it.")
            if self.dtype is not None and tensor.is_floating_point() and tensor.dtype != self.dtype:
                raise FrameError(
                    f"the frame is {tensor.dtype} and the weights are {self.dtype}; convert one of them, for example "
                    f"frame.to({self.dtype})."
                )
            if self.device is not None and tensor.device != self.device:
                raise FrameError(
                    f"the frame is on {tensor.device} and the weights are on {self.device}; move one of them, for "
                    f"example frame.to({str(self.device)!r})."
                )
        for node, value in zip(graph_module.graph.find_nodes(op="placeholder"), inputs, strict=True):
            rank = node.meta.get("rank")
            if rank is not None and isinstance(value, Tensor) and value.dim() != rank:
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
        inputs = [leaf.updated for node in plan.inputs for leaf in node.leaves if leaf.updated is not None]
        # The first frame is a refresh: it is not the camera's doing.
        rates = [(total[1].item() - 1) / (NOISE_FRAMES - 1) for total in inputs]
        if rates and max(rates) > NOISE_RATE:
            self.warned_of_noise = True
            warnings.warn(
                f"deltafx: {100 * max(rates):.0f} % of the input's pixels changed in each of the last {NOISE_FRAMES} "
                f"frames, so almost everything was computed again. On a fixed camera that is usually noise: try "
                f'deltafx.convert(model, mode="balanced"), or calibrate thresholds.',
                stacklevel=4,
            )

    # -- what the user asks for ---------------------------------------------------------------------------------------

    def reset(self, streams: list[int] | None) -> None:
        if streams is None:
            self.streams = None
            for plan in self.plans:
                plan.reset()
            return
        if self.streams is None:
            return  # no frame yet: the first one is in full
        wrong = [s for s in streams if not 0 <= s < self.streams]
        if wrong:
            raise ValueError(f"reset: streams {wrong} do not exist; there are {self.streams}, numbered from 0.")
        for plan in self.plans:
            if plan.streams == self.streams:
                plan.reset_streams(streams)


def streams_of(leaves: list[Any]) -> int:
    """The number of streams: the first dimension of the first tensor that has at least two, else at least one."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    for rank in (2, 1, 0):
        for tensor in tensors:
            if tensor.dim() >= rank:
                return tensor.shape[0] if tensor.dim() else 1
    return 1
