"""How cuDNN computes convolutions with what ends them: it proposes ways, of which the fastest is taken."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from deltafx import _cuda
from deltafx.backends.cuda.ending import Operation

# Ways to compute a convolution that are tried with `torch.backends.cudnn.benchmark`: by kernels that are there, and by
# such as cuDNN compiles, which takes it a third of a second, beside the others or alone.
TRIED, TRIED_COMPILED, COMPILED_ALONE = 5, 1, 3
MOST_WORKERS = 8  # each has a handle of cuDNN
NOTHING: Operation = ("mul", "number", 1.0)
TIMED, CALLS = 3, 5  # graphs of each, and the calls in one


class Engine:
    """How cuDNN computes fused convolutions of one form; settled when the first of them is prepared.

    For some endings it has kernels that it compiles, for the usual ones only such as are there already. So these it is
    asked for twice: with a last operation, too, that changes nothing.
    """

    def __init__(self, form: dict[str, Any]):
        self.forms: list[Any] = []
        self.chosen: Any = None
        self.is_settled = False
        self.ask(form)
        if self.forms and not any(self.forms[0].ways):
            self.ask({**form, "ending": (*form["ending"], NOTHING)})

    @property
    def compiled_tries(self) -> int:
        return TRIED_COMPILED if len(self.forms) > 1 else COMPILED_ALONE

    def ask(self, form: dict[str, Any]) -> None:
        with contextlib.suppress(RuntimeError):  # cuDNN's heuristic has nothing for it
            self.forms.append(_cuda.FusedConvolution(**form))

    def compile(self) -> None:
        """What `settle` is going to try, before it does. Threads may do so for different engines at a time."""
        assert not self.is_settled  # another way would be taken
        ways = (form.take(way) for form in self.forms for way, compiles in enumerate(form.ways) if compiles)
        first = bool(self.forms) and self.forms[0].ways[:1] == [True]
        wanted = self.compiled_tries if torch.backends.cudnn.benchmark else int(first)
        list(itertools.islice(filter(None, ways), wanted))

    def settle(self, run: Callable[[], None], otherwise: Callable[[], None]) -> bool:
        """Take one of its ways to compute it: the first that works or, if ways are tried, the fastest.

        False if none works, or none beats `otherwise`.
        """
        if not self.is_settled:
            self.is_settled, tries = True, torch.backends.cudnn.benchmark
            least, best = milliseconds(otherwise) if tries else math.inf, None
            for form, way in self.tried(run) if tries else itertools.islice(self.working(run), 1):
                taken = milliseconds(run) if tries else 0.0
                if taken < least:
                    least, best = taken, (form, way)
            self.chosen = None
            if best is not None:
                self.chosen, way = best
                self.chosen.take(way)
        return self.chosen is not None

    def tried(self, run: Callable[[], None]) -> Iterator[tuple[Any, int]]:
        yield from itertools.islice(self.working(run, compiles=False), TRIED)
        yield from itertools.islice(self.working(run, compiles=True), self.compiled_tries)

    def working(self, run: Callable[[], None], compiles: bool | None = None) -> Iterator[tuple[Any, int]]:
        """Ways that work, the best that cuDNN expects first; each is taken."""
        for form in self.forms:
            self.chosen = form
            for way, is_compiled in enumerate(form.ways):
                if compiles in (None, is_compiled) and form.take(way) and runs(run):
                    yield form, way


def compile_all(engines: Iterable[Engine], device: torch.device) -> None:
    """What is going to be tried, side by side: it is the processor's work."""
    new = [engine for engine in engines if not engine.is_settled]
    if new:
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(workers, initializer=torch.cuda.set_device, initargs=(device,)) as pool:
            list(pool.map(Engine.compile, new))


def runs(call: Callable[[], None]) -> bool:
    """Whether cuDNN computes what it said that it could."""
    with contextlib.suppress(RuntimeError):
        call()
        return True
    return False


def milliseconds(call: Callable[[], None]) -> float:
    """Of one call among others in a CUDA graph, as it will be run: what the host takes does not count."""
    call()  # libraries load and choose what they need
    graph = torch.cuda.CUDAGraph()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(TIMED)]
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
        for _ in range(CALLS):
            call()
    for begin, end in events:
        begin.record()
        graph.replay()
        end.record()
    torch.cuda.current_stream().synchronize()
    return min(begin.elapsed_time(end) for begin, end in events) / CALLS
