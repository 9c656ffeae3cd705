"""How cuDNN computes convolutions with what ends them: it proposes ways, of which the fastest is taken."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from deltafx import _cuda
from deltafx.backends.cuda.ending import Operation
from deltafx.cuda_graph import captured

# Ways to compute a convolution that are tried with `torch.backends.cudnn.benchmark`: by kernels that are there, and by
# such as cuDNN compiles, which takes it a third of a second, beside the others or alone.
TRIED, TRIED_COMPILED, COMPILED_ALONE = 5, 1, 3
MOST_WORKERS = 8  # each has a handle of cuDNN
NOTHING: Operation = ("mul", "number", 1.0)
TIMED, CALLS = 3, 5  # graphs of each, and the calls in one


@dataclass(frozen=True)
class Way:
    """One of those that cuDNN proposes."""

    form: Any  # _cuda.FusedConvolution
    number: int
    compiles: bool  # when it is made

    def make(self) -> bool:
        """Whether it works."""
        return self.form.make(self.number)

    @property
    def workspace(self) -> int:
        """Bytes, once it is made."""
        return self.form.workspace(self.number)

    def run(self, **addresses: int) -> None:
        self.form.run(self.number, **addresses)


class Engine:
    """How cuDNN computes fused convolutions of one form; settled when the first of them is prepared.

    For some endings it has kernels that it compiles, for the usual ones only such as are there already. So these it is
    asked for twice: with a last operation, too, that changes nothing.
    """

    def __init__(self, form: dict[str, Any]):
        self.ways = proposed(form)  # the best that cuDNN expects first
        self.compiled_tries = COMPILED_ALONE
        self.chosen: Way | None = None
        self.is_settled = False
        if self.ways and not any(way.compiles for way in self.ways):
            self.compiled_tries = TRIED_COMPILED
            self.ways += proposed({**form, "ending": (*form["ending"], NOTHING)})

    def compile(self) -> None:
        """What `settle` is going to try, before it does. Threads may do so for different engines at a time."""
        at_once = any(way.compiles for way in self.ways[:1])
        wanted = self.compiled_tries if torch.backends.cudnn.benchmark else int(at_once)
        list(itertools.islice((way for way in self.ways if way.compiles and way.make()), wanted))

    def settle(self, run: Callable[[Way], None], otherwise: Callable[[], None]) -> bool:
        """Choose one of its ways to compute it: the first that works or, if ways are tried, the fastest.

        False if none works, or none beats `otherwise`.
        """
        if not self.is_settled:
            self.is_settled = True
            if torch.backends.cudnn.benchmark:
                self.chosen = self.fastest(run, milliseconds(otherwise))
            else:
                self.chosen = next(working(self.ways, run), None)
        return self.chosen is not None

    def fastest(self, run: Callable[[Way], None], least: float) -> Way | None:
        """Of those that are tried and take less."""
        chosen = None
        for compiles, tries in ((False, TRIED), (True, self.compiled_tries)):
            ways = [way for way in self.ways if way.compiles == compiles]
            for way in itertools.islice(working(ways, run), tries):
                taken = milliseconds(partial(run, way))
                if taken < least:
                    least, chosen = taken, way
        return chosen


def proposed(form: dict[str, Any]) -> list[Way]:
    """By cuDNN's heuristic."""
    with contextlib.suppress(RuntimeError):  # it has nothing for it
        convolution = _cuda.FusedConvolution(**form)
        return [Way(convolution, number, compiles) for number, compiles in enumerate(convolution.ways)]
    return []


def compile_all(engines: Iterable[Engine], device: torch.device) -> None:
    """What is going to be tried, side by side: it is the processor's work."""
    new = [engine for engine in engines if not engine.is_settled]
    if new:
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(workers, initializer=torch.cuda.set_device, initargs=(device,)) as pool:
            list(pool.map(Engine.compile, new))


def working(ways: Iterable[Way], run: Callable[[Way], None]) -> Iterator[Way]:
    """Those by which cuDNN computes what it said that it could."""
    return (way for way in ways if way.make() and runs(partial(run, way)))


def runs(call: Callable[[], None]) -> bool:
    with contextlib.suppress(RuntimeError):
        call()
        return True
    return False


def milliseconds(call: Callable[[], None]) -> float:
    """Of one call among others in a CUDA graph, as it will be run: what the host takes does not count."""

    def calls() -> None:
        for _ in range(CALLS):
            call()

    call()  # libraries load and choose what they need
    graph = captured(calls)
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(TIMED)]
    for begin, end in events:
        begin.record()
        graph.replay()
        end.record()
    torch.cuda.current_stream().synchronize()
    return min(begin.elapsed_time(end) for begin, end in events) / CALLS
