"""A frame without Python between its nodes: one compiled object runs all of a plan's compiled nodes.

The graph stays what it is: it runs node by node in the first frames, until every threshold is measured, and whenever
somebody looks on (checker, hooks). What has no compiled kernel, and a layer that is faster densely in this
frame, is run from Python here too, at its place in the order.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from deltafx import _cpu
from deltafx.backends.cpu.separable import Layer, Separable, separables
from deltafx.graph_step import Values, step_of
from deltafx.node import DeltaNode
from deltafx.plan import scale_name
from deltafx.profile import HostTimer
from deltafx.watched import every_module_is_watched, hooks_of

if TYPE_CHECKING:
    from deltafx.plan import Plan


TRUNCATION = operator.attrgetter("truncation")


@dataclass
class Run:
    """Nodes of the program."""

    first: int
    end: int


@dataclass(frozen=True)
class Step:
    """A node that is run from Python, given the values of the nodes before it."""

    node: fx.Node
    run: Callable[[Values], Any]


class FrameProgram:
    """The program of one plan, for the truncations and scales that it was made with."""

    def __init__(self, graph_module: fx.GraphModule, plan: Plan):
        self.plan = plan
        self.program = _cpu.Program(plan.rows)
        self.modules: list[DeltaNode] = []  # those of the program, in its order
        self.kernels: list[Any] = []
        self.order: list[Run | Step] = []
        self.placeholders: list[fx.Node] = []
        self.sent: dict[fx.Node, Any] = {}  # what the nodes of the program send, in every frame
        self.forced: Any = None
        self.last_frame = -1  # that it ran
        self.timed = False
        together = {layer.module: (each, layer) for each in separables(graph_module, plan) for layer in each.layers}
        for node in graph_module.graph.nodes:
            module: Any = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
            if compiled(module, plan):
                self.add(module, *together.get(module, ()))
                self.sent[node] = plan.nodes[module.path].deltas
            elif node.op == "get_attr":
                self.sent[node] = operator.attrgetter(str(node.target))(graph_module)
            elif node.op == "placeholder":
                self.placeholders.append(node)
            else:
                self.order.append(Step(node, step_of(node, module)))
        self.states = [plan.nodes[module.path] for module in self.modules]
        out_of_date = {id(layer.state) for each, layer in together.values() if layer is not each.project}
        self.stored = [state for state in self.states if id(state) not in out_of_date]  # whose buffers are written
        self.hooks = hooks_of(self.modules)
        self.truncations = [module.truncation for module in self.modules]
        self.scales = dict(plan.scales)

    def add(self, module: DeltaNode, together: Separable | None = None, layer: Layer | None = None) -> None:
        state, index = self.plan.nodes[module.path], len(self.modules)
        if together is None or layer is None:
            state.kernel.append_to(self.program, state, self.plan)
        else:
            together.append_to(self.program, layer, self.plan)
        self.modules.append(module)
        self.kernels.append(state.kernel)
        last = self.order[-1] if self.order else None
        if isinstance(last, Run):
            last.end = index + 1
        else:
            self.order.append(Run(index, index + 1))

    def holds(self) -> bool:
        """Whether the kernels' prepared arguments are those of the frame that is about to run."""
        now = map(TRUNCATION, self.modules)
        return self.scales == self.plan.scales and all(map(operator.is_, now, self.truncations))

    def fits_the_frame(self) -> bool:
        """Whether every node ran in the last frame (one that did not has to be refreshed), and none is looked at."""
        if not self.modules or any(self.hooks):
            return False
        last = self.plan.frame - 1
        return self.last_frame == last or all(state.last_frame == last for state in self.stored)

    def force(self) -> None:
        """Take over what is prescribed, which is the same tensor from frame to frame."""
        self.forced = None
        for index, (module, kernel) in enumerate(zip(self.modules, self.kernels, strict=True)):
            if module.truncation is not None and hasattr(kernel, "leaf"):
                self.program.force(index, self.plan.forced(kernel.leaf.mask))
        self.forced = self.plan.forced_mask

    def settle_timing(self) -> None:
        """Measure if the plan does, and let its timer know that it is this program that does it."""
        timer = self.plan.timer
        self.timed = timer is not None
        self.program.time(self.timed)
        if isinstance(timer, HostTimer) and timer.program is not self:
            timer.settle()  # what another program measured
            timer.program = self

    def run(self, given: list[Any]) -> Any:
        """One frame; `given` has the value of each placeholder."""
        plan, values, result = self.plan, dict(self.sent), None
        if plan.timer is not None or self.timed:
            self.settle_timing()
        if self.forced is not plan.forced_mask:
            self.force()
        values.update(zip(self.placeholders, given, strict=True))
        for part in self.order:
            if isinstance(part, Run):
                self.run_compiled(part.first, part.end)
            else:
                result = values[part.node] = part.run(values)
        frame = self.last_frame = plan.frame
        for state in self.stored:
            state.last_frame = frame
        return result

    def run_compiled(self, at: int, end: int) -> None:
        while (at := self.program.run(at, end)) < end:
            state = self.states[at]
            state.rows = self.plan.rows if state.aligned else self.plan.rows.any()
            start = time.perf_counter()
            self.kernels[at].compute(self.program.count, self.kernels[at].flags.of(state), state, self.plan)
            if self.plan.profiles:
                self.program.spend(at, time.perf_counter() - start)
            at += 1

    def take_times(self) -> None:
        """What the program measured of its nodes is in their states from here on."""
        for state, (last, total) in zip(self.states, self.program.take_times(), strict=True):
            if total:
                state.seconds, state.seconds_sum = last, state.seconds_sum + total


def compiled(module: Any, plan: Plan) -> bool:
    state = plan.nodes.get(module.path) if isinstance(module, DeltaNode) else None
    return state is not None and hasattr(state.kernel, "append_to")


def is_measured(graph_module: fx.GraphModule, plan: Plan) -> bool:
    """Whether every threshold that is a share of a scale is known."""
    for module in graph_module.modules():
        if not isinstance(module, DeltaNode) or module.path not in plan.nodes or not plan.withholds(module):
            continue
        state = plan.nodes[module.path]
        if module.truncation is not None and not module.truncation.threshold.absolute:
            floating = [leaf for leaf in state.leaves if leaf.dtype.is_floating_point]
            if any(scale_name(state, leaf) not in plan.scales for leaf in floating):
                return False
    return True


def frame_program(graph_module: fx.GraphModule, plan: Plan | None) -> FrameProgram | None:
    """The program for the frame that is about to run; None where it runs node by node."""
    if plan is None or plan.frame == 0 or plan.checker is not None or not plan.runs_programs:
        return None
    if every_module_is_watched():
        return None
    program = plan.frame_program
    if program is None or not program.holds():
        program = plan.frame_program = FrameProgram(graph_module, plan) if is_measured(graph_module, plan) else None
    return program if program is not None and program.fits_the_frame() else None
