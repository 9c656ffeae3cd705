"""`deltafx.tune`: which tiles the convolutions of a network run best with, measured on the GPU that it is on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deltafx.converted import Converted, graphs_of, reset
from deltafx.cuda_graph import captured

if TYPE_CHECKING:
    from deltafx.plan import Plan

REPEATS, ROUNDS = 8, 5  # launches of one graph, and how often it is timed


@dataclass(frozen=True)
class Tuned:
    """What one kind of convolution took with the tiles that it had, and takes now, in microseconds."""

    convolution: str
    before: float
    after: float
    tile: str
    parts: int  # blocks that have a tile together
    nodes: int  # that are of this kind


@dataclass(frozen=True)
class Tuning:
    """What `tune` found, and the file that keeps it for every network on such a device."""

    device: str
    convolutions: list[Tuned]
    file: Path

    @property
    def gain(self) -> float:
        """How many times faster all convolutions together are."""
        before, after = (sum(getattr(c, name) * c.nodes for c in self.convolutions) for name in ("before", "after"))
        return before / after if after else 1.0


def tune(dm: Converted, frames: Iterable[Any], step: Callable[[], None] = lambda: None) -> Tuning:
    """Measure on this GPU which tiles the convolutions of `dm` are fastest with, use them, and keep them for later.

    `frames` are consecutive ones as `dm` is called with, on the GPU; a tuple is several arguments. The last one decides
    how much there is to compute, so it should be a usual one: what is fastest for few pixels is not so for many. Later
    conversions on a device of the same name find the result in deltafx's cache folder (`$DELTAFX_CACHE`, else
    `~/.cache/deltafx`), where every kind of convolution has its line. `step` is called after each.

    The next frame starts in full: with other tiles, sums are rounded in another order.

    Raises ValueError if no frame is given, or if nothing of `dm` runs on compiled CUDA kernels.
    """
    count = 0
    with torch.no_grad(), node_by_node(dm) as step_by_node:
        for count, frame in enumerate(frames, 1):  # noqa: B007
            step_by_node()
            dm(*frame) if isinstance(frame, tuple) else dm(frame)
        if count == 0:
            raise ValueError("tune: at least one frame is needed, of the shape that will be used.")
        kinds = convolutions(dm)
        if not kinds:
            raise ValueError(
                "tune: no convolution of this network runs on compiled CUDA kernels, whose tiles are all that is "
                'tuned. Convert a model that is on a GPU, with backend="cuda".'
            )
        return measure_all(dm, kinds, step)


@contextlib.contextmanager
def node_by_node(dm: Converted) -> Iterator[Callable[[], None]]:
    """Gives what is to be called before each frame: none is captured then, and so none is dense, which marks all."""
    captured: list[Plan] = []

    def uncapture() -> None:
        for graph in graphs_of(dm):
            for plan in graph.runtime.plans:
                if plan.captures:
                    plan.captures = False
                    captured.append(plan)

    try:
        yield uncapture
    finally:
        for plan in captured:
            plan.captures = True


def convolutions(dm: Converted) -> dict[str, list[tuple[Plan, Any]]]:
    """By kind, the compiled ones of the plans that ran last, as plan and state."""
    kinds: dict[str, list[tuple[Plan, Any]]] = {}
    for graph in graphs_of(dm):
        for plan in graph.runtime.plans[:1]:
            for state in plan.nodes.values():
                tilings = getattr(state.kernel, "tilings", None)
                if tilings is not None:
                    kinds.setdefault(f"{tilings.device}: {tilings.key}", []).append((plan, state))
    return kinds


def measure_all(dm: Converted, kinds: dict[str, list[tuple[Plan, Any]]], step: Callable[[], None]) -> Tuning:
    from deltafx.backends.cuda.tilings import NAMES, keep

    found, done = {}, []
    try:
        for of_kind in kinds.values():
            plan, state = of_kind[0]
            kernel = state.kernel
            given = list(kernel.arguments[-2])
            tallies = [(leaf.tally, leaf.tally.clone()) for leaf in state.leaves]
            times = {tuple(tiling): time_of(plan, state, list(tiling)) for tiling in kernel.tilings.possible}
            before = times[tuple(given)] if given else time_of(plan, state, [])
            for tally, was in tallies:
                tally.copy_(was)
            best = min(times, key=times.__getitem__)
            found[kernel.tilings.key] = best
            for _, other in of_kind:
                other.kernel.take(list(best))
            done.append(Tuned(kernel.tilings.key, before, times[best], NAMES[best[0]], best[1], len(of_kind)))
            step()
    finally:
        for graph in graphs_of(dm):
            for plan in graph.runtime.plans:
                plan.frame_graph = None
        reset(dm)
    device = next(iter(kinds.values()))[0][1].kernel.tilings.device
    return Tuning(device, done, keep(device, found))


def time_of(plan: Plan, state: Any, tiling: list[int]) -> float:
    """Microseconds that a node takes with these tiles, where what the last frame marked is marked."""
    kernel = state.kernel
    kernel.take(tiling)
    refresh = torch.zeros_like(kernel.flags.of(state))
    with torch.cuda.device(plan.stale.device):
        kernel.launch(refresh, state, plan)  # what is made when it is first needed is made now

        def repeat() -> None:
            for _ in range(REPEATS):
                kernel.launch(refresh, state, plan)

        graph = captured(repeat)
        times = []
        for _ in range(ROUNDS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1000 / REPEATS)
    return min(times)
