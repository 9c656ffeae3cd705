"""A frame in parts, each of which the device runs at rest, sparsely or densely, in one CUDA graph.

A part is at rest where nothing that it reads was updated. Where so much was that computing everything is sooner done,
its nodes run densely, which is a refresh of that part: every pixel is written and its mask set, so that the parts after
it run densely too. A kernel settles which it is, from the counts that the frame has left so far; the host does not ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltafx import _cuda
from deltafx.backends.cuda.break_even import Call, split, updated_share
from deltafx.backends.cuda.candidates import Marks
from deltafx.backends.cuda.dense_convolution import engines_of
from deltafx.backends.cuda.engines import compile_all
from deltafx.backends.cuda.kernel import CompiledKernel
from deltafx.backends.cuda.lanes import Schedule
from deltafx.cuda_graph import captured
from deltafx.graph_times import GraphTimes
from deltafx.profile import captured_times
from deltafx.state import COMPUTED_SUM, Leaf, NodeState

if TYPE_CHECKING:
    from deltafx.node import DeltaNode
    from deltafx.plan import Plan

operators = torch.ops.deltafx_cuda

REST, SPARSE, DENSE, UNKNOWN = range(4)
NEVER = 1 << 62  # pixels
PIECE = 1 << 15  # bytes that one block sets


class Part:
    """Nodes that follow each other and what the choice of their form depends on. `many`: a share, see `break_even`."""

    def __init__(self, calls: Sequence[Call], plan: Plan, many: float):
        self.calls, self.plan = calls, plan
        device = plan.stale.device
        self.states = states = [plan.nodes[module.path] for module, _ in calls]
        self.schedule = Schedule(calls, plan)
        self.own = [leaf for state in states for leaf in state.leaves]
        read = self.schedule.outside
        strips = [leaf.strip for leaf in self.own if leaf.strip is not None]
        self.watched = addresses([*read, *strips], device)
        self.inputs = len(read)
        self.pixels = sum(leaf.pixels for leaf in read)
        self.many = max(1, round(many * self.pixels)) if many <= 1 else NEVER
        self.kept = addresses(self.own, device)
        self.last = torch.full((1,), UNKNOWN, dtype=torch.int32, device=device)
        self.nothing = torch.zeros(0, 2, dtype=torch.int64, device=device)
        self.marks = pieces(self.own, device)
        themselves = [leaf for state in states if state.kernel.marks_itself for leaf in state.leaves]
        others = [leaf for state in states if not state.kernel.marks_itself for leaf in state.leaves]
        self.cleared, self.set = pieces(themselves, device), pieces(others, device, heads=False)
        counted = [(leaf.tally.data_ptr(), leaf.pixels) for leaf in others]
        self.counted = torch.tensor(counted, dtype=torch.int64, device=device).view(-1, 2)

    def at_rest(self) -> None:
        operators.mark.default(self.marks, 0, self.nothing)
        times = captured_times(self.plan.timer)
        if times is not None:
            times.mark(self.states[0], len(self.states))

    def sparse(self) -> None:
        operators.mark.default(self.marks, 0, self.nothing)
        self.schedule.run(lambda number: call(*self.calls[number]))

    def dense(self) -> None:
        kernels = [state.kernel for state in self.states if isinstance(state.kernel, CompiledKernel)]
        forms = {id(kernel.leaf): kernel.dense for kernel in kernels if kernel.dense is not None}
        for form in forms.values():
            form.follow(forms)
        operators.mark.default(self.cleared, 0, self.nothing)
        operators.mark.default(self.set, 1, self.counted)
        self.schedule.run(lambda number: self.run_densely(self.states[number]))

    def run_densely(self, state: NodeState) -> None:
        self.plan.run(state, state.kernel.run_densely, state, self.plan)

    def add_to(self, graph: Any, forms: Sequence[torch.cuda.CUDAGraph]) -> None:
        graph.add(
            [form.raw_cuda_graph() for form in forms],
            tallies=self.watched.data_ptr(), inputs=self.inputs, count=len(self.watched), many=self.many,
            refresh=self.plan.rows.data_ptr(), streams=self.plan.streams,
            kept=self.kept.data_ptr(), kept_count=len(self.kept), last=self.last.data_ptr(),
        )  # fmt: skip


def prepare(calls: Sequence[Call], plan: Plan) -> None:
    """Settle the dense forms of nodes, before any is captured; once for all captures of a plan."""
    done = plan.scratch.setdefault("prepared", set())
    kernels = [plan.nodes[module.path].kernel for module, _ in calls]
    new = [kernel for kernel in kernels if kernel not in done]
    for kernel in new:
        kernel.propose()
    compile_all(engines_of(plan).values(), plan.stale.device)
    for kernel in new:
        kernel.prepare(plan)
    done.update(new)


class ChosenFrame:
    """The inner nodes of a plan as one CUDA graph of parts."""

    def __init__(self, calls: Sequence[Call], plan: Plan):
        switches = plan.switches_to_dense
        if switches:
            prepare(calls, plan)  # how dense nodes are computed tells how long they take
        split_calls = split(calls, plan)
        self.parts = [Part(part, plan, updated_share(part, plan) if switches else NEVER) for part in split_calls]
        self.graph = _cuda.ChosenGraph()
        Marks.of(plan).cleared = plan.clock.time  # each part clears what is its own
        self.pool = torch.cuda.graph_pool_handle()  # of all forms one runs at a time, so that they share their memory
        self.stream = torch.cuda.Stream()  # PyTorch's own for captures is of the device that captured first
        self.forms: list[list[torch.cuda.CUDAGraph]] = []
        for number, part in enumerate(self.parts):
            times = captured_times(plan.timer) if number == 0 else None
            sparse = self.captured(part.sparse, times)
            dense = self.captured(part.dense, times) if part.many < NEVER else sparse
            self.forms.append([self.captured(part.at_rest, times), sparse, dense])
            part.add_to(self.graph, self.forms[-1])
        self.graph.instantiate()

    def captured(self, run: Callable[[], None], begins: GraphTimes | None) -> torch.cuda.CUDAGraph:
        """`begins`: the times of the frame that this is the beginning of."""
        graph = torch.cuda.CUDAGraph(keep_graph=True)
        with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
            if begins is not None:
                begins.begin()
            run()
        return graph

    def replay(self) -> None:
        self.graph.launch(torch.cuda.current_stream().cuda_stream)

    @property
    def choices(self) -> list[int]:
        """The form of each part in the last frame. Waits for the device."""
        return [int(part.last) for part in self.parts]


class PlainFrame:
    """The same without choices: every frame is sparse."""

    def __init__(self, calls: Sequence[Call], plan: Plan):
        def run() -> None:
            if times is not None:
                times.begin()
            Marks.of(plan).begin(plan)  # before the first node, which others may run beside
            Schedule(calls, plan).run(lambda number: call(*calls[number]))

        times = captured_times(plan.timer)
        self.graph = captured(run)

    def replay(self) -> None:
        self.graph.replay()


def capture(calls: Sequence[Call], plan: Plan) -> ChosenFrame | PlainFrame:
    """Graphs choose from CUDA 12.8 on."""
    return ChosenFrame(calls, plan) if _cuda.has_choices() else PlainFrame(calls, plan)


def call(module: DeltaNode, args: tuple) -> None:
    module(*args)


def addresses(leaves: Sequence[Leaf], device: torch.device) -> Tensor:
    """Of their tallies."""
    return torch.tensor([leaf.tally.data_ptr() for leaf in leaves], dtype=torch.int64, device=device)


def pieces(leaves: Sequence[Leaf], device: torch.device, heads: bool = True) -> Tensor:
    """Where masks and, with `heads`, the counts of one frame lie, and how many bytes each has; `[n, 2]`."""
    spans = [(leaf.mask.data_ptr(), leaf.mask.numel()) for leaf in leaves]
    if heads:
        spans += [(leaf.tally.data_ptr(), COMPUTED_SUM * leaf.tally.itemsize) for leaf in leaves]
    split = [(at + k, min(PIECE, size - k)) for at, size in spans for k in range(0, size, PIECE)]
    return torch.tensor(split, dtype=torch.int64, device=device).view(-1, 2)
