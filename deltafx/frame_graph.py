"""A frame as one CUDA graph: what lies between the inputs and the outputs is launched at once.

`dense_to_delta` runs before it, on the caller's tensor where it lies, and `delta_to_dense` after it. Flags and counts
are on the device, so the same graph serves every frame: those in which nothing changed, refreshes, and what is between.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from deltafx.delta import Delta
from deltafx.graph_step import step_of
from deltafx.graph_times import GraphTimes
from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.plan import scale_name
from deltafx.profile import DeviceTimer
from deltafx.watched import every_module_is_watched, hooks_of

if TYPE_CHECKING:
    from deltafx.plan import Plan

EAGER_FRAMES = 2  # before the capture: the first is in full, and both make what is made when it is first needed


class NotCaptured(Exception):
    """Something in a frame is not done by compiled CUDA kernels."""


class FrameGraph:
    """The captured nodes of one plan, for one forced mask or none; or NotCaptured."""

    def __init__(self, graph_module: fx.GraphModule, plan: Plan):
        self.plan = plan
        self.forced = plan.forced_mask
        self.entering: list[tuple[int, DenseToDelta]] = []
        self.inner: list[tuple[DeltaNode, tuple]] = []
        self.leaving: list[tuple[fx.Node, Callable]] = []  # delta_to_dense, and what is made of their results
        self.placeholders: list[fx.Node] = []
        device = plan.stale.device
        self.on_device = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        self.graph: Any = None  # what is replayed
        self.times: GraphTimes | None = None  # with profiling
        self.values: dict[fx.Node, Any] = {}  # which are the same in every frame
        for node in graph_module.graph.nodes:
            self.add(node, graph_module)
        self.states = [plan.nodes[module.path] for module, _ in self.inner]
        self.hooks = hooks_of(module for module, _ in self.inner)

    def add(self, node: fx.Node, graph_module: fx.GraphModule) -> None:
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        late = {left for left, _ in self.leaving}
        follows = node.op == "call_function" and late.intersection(node.all_input_nodes)
        if isinstance(module, DeltaToDense) or node.op == "output" or follows:
            self.leaving.append((node, step_of(node, module)))
            return
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        if node.op == "placeholder":
            self.values[node] = len(self.placeholders)
            self.placeholders.append(node)
        elif node.op == "get_attr":
            self.values[node] = operator.attrgetter(str(node.target))(graph_module)
        elif isinstance(module, DenseToDelta):
            if self.inner:
                raise NotCaptured(f"{node}: an input after the first node")
            self.entering.append((self.values[node.all_input_nodes[0]], module))
            self.values[node] = self.plan.nodes[module.path].deltas
        elif isinstance(module, DeltaNode):
            self.values[node] = self.add_inner(module, args)
        elif node.op == "call_function" and not any(n.op == "placeholder" for n in node.all_input_nodes):
            self.values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            if any(isinstance(leaf, (torch.Tensor, Delta)) for leaf in pytree.tree_leaves(self.values[node])):
                raise NotCaptured(f"{node}: it is no shape arithmetic")
        else:
            raise NotCaptured(f"{node}: {node.op}")

    def add_inner(self, module: DeltaNode, args: tuple) -> Any:
        state = self.plan.nodes.get(module.path)
        if state is None:
            return self.plan.constant(module, args)
        if not getattr(state.kernel, "captured", False):
            raise NotCaptured(f"{module.path}: its kernel")
        self.inner.append((module, args))
        return state.deltas

    def fits_the_frame(self) -> bool:
        """Whether what is prescribed is what it was made for, and none of its nodes is looked at."""
        return self.forced is self.plan.forced_mask and not any(self.hooks)

    def capture(self) -> None:
        timer, timed = self.plan.timer, contextlib.nullcontext()  # type: Any, Any
        if isinstance(timer, DeviceTimer):
            self.times = GraphTimes(timer.device, [self.plan.nodes[module.path] for module, _ in self.inner])
            timed = timer.capture(self.times)
        collects = gc.isenabled()
        gc.disable()  # an older graph that is freed meanwhile would break the capture
        try:
            with timed:
                self.graph = importlib.import_module("deltafx.backends.cuda.parts").capture(self.inner, self.plan)
            if self.plan.background is not None:
                self.plan.background.capture()
        except BaseException:
            self.plan.frame_graph = None
            raise
        finally:
            if collects:
                gc.enable()

    def run(self, given: list[Any]) -> Any:
        """One frame; `given` has the value of each placeholder."""
        for index, dense_to_delta in self.entering:
            dense_to_delta(given[index])
        with self.on_device:
            if self.graph is None:
                self.capture()
            self.graph.replay()
        if self.times is not None and isinstance(self.plan.timer, DeviceTimer):
            self.plan.timer.replayed(self.times)
        frame = self.plan.frame
        for state in self.states:
            state.last_frame = frame
        results, result = dict(self.values), None
        for node, step in self.leaving:
            result = results[node] = step(results)
        return result


def frame_graph(graph_module: fx.GraphModule, plan: Plan) -> FrameGraph | None:
    """The graph for the frame that is about to run; None where it runs node by node.

    What was captured is given up then: what its parts do depends on what they did in the frame before.
    """
    plan.frame_graph = fitting(graph_module, plan)
    return plan.frame_graph


def fitting(graph_module: fx.GraphModule, plan: Plan) -> FrameGraph | None:
    if not plan.captures or plan.frame < EAGER_FRAMES or every_module_is_watched():
        return None
    if plan.frame_graph is not None and plan.frame_graph.fits_the_frame():
        return plan.frame_graph
    # What was prescribed is pooled in the first frame that it is prescribed for.
    fresh, plan.last_forced = plan.last_forced is not plan.forced_mask, plan.forced_mask
    if fresh or not is_settled(graph_module, plan):
        return None
    graph = FrameGraph(graph_module, plan)
    return graph if graph.fits_the_frame() else None


def can_be_captured(graph_module: fx.GraphModule, plan: Plan) -> bool:
    """Whether all that a frame does between its inputs and outputs is done by compiled CUDA kernels."""
    if plan.stale.device.type != "cuda" or plan.checker is not None:
        return False
    try:
        return bool(FrameGraph(graph_module, plan).inner)
    except NotCaptured:
        return False


def is_settled(graph_module: fx.GraphModule, plan: Plan) -> bool:
    """Whether every threshold that is a share is measured, and every node ran in the last frame."""
    for module in graph_module.modules():
        if not isinstance(module, DeltaNode) or module.path not in plan.nodes:
            continue
        state = plan.nodes[module.path]
        if state.last_frame != plan.frame - 1:
            return False
        if plan.withholds(module) and module.truncation and not module.truncation.threshold.absolute:
            floating = [leaf for leaf in state.leaves if leaf.dtype.is_floating_point]
            if any(scale_name(state, leaf) not in plan.scales for leaf in floating):
                return False
    return True
