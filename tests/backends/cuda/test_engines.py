"""Which of cuDNN's ways is taken; without a GPU, on ways of which it is said how long they take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("deltafx._cuda")
from deltafx.backends.cuda import engines
from deltafx.backends.cuda.engines import NOTHING, Engine, compile_all
from deltafx.backends.cuda.parts import prepare

RELU = ("relu", "", 0.0)
ENDED: list[tuple[bool, float]] = [(False, 5.0), (False, 3.0), (False, 9.0)]
COMPILED: list[tuple[bool, float]] = [(True, 2.0), (True, 1.0)]


class Proposed:
    """As the compiled class: of each way, whether it is compiled, and its milliseconds; 0 for what does not work."""

    def __init__(self, ways: dict[int, list[tuple[bool, float]]], ending: tuple):
        if len(ending) not in ways:
            raise RuntimeError("no engines")
        self.known, self.taken, self.compilations = ways[len(ending)], -1, 0

    @property
    def ways(self) -> list[bool]:
        return [compiles for compiles, _ in self.known]

    def take(self, way: int) -> bool:
        self.compilations += self.known[way][0]
        self.taken = way
        return self.known[way][1] > 0


def engine(monkeypatch: pytest.MonkeyPatch, ways: dict[int, list[tuple[bool, float]]], tries: bool = True) -> Engine:
    """By the number of operations, what cuDNN has for it."""
    monkeypatch.setattr(engines._cuda, "FusedConvolution", lambda ending: Proposed(ways, ending), raising=False)
    monkeypatch.setattr(engines, "milliseconds", lambda call: call())
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", tries)
    return Engine({"ending": (RELU,)})


def settled(engine: Engine, otherwise: float) -> Any:
    def run() -> float:
        return engine.chosen.known[engine.chosen.taken][1]

    return engine.settle(run, lambda: otherwise)  # type: ignore[arg-type,return-value]


def test_the_fastest_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = engine(monkeypatch, {1: ENDED})
    assert settled(chosen, 4.0)
    assert chosen.chosen.taken == 1


def test_kernels_that_are_compiled_are_asked_for_with_an_operation_that_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert NOTHING == ("mul", "number", 1.0)
    chosen = engine(monkeypatch, {1: ENDED, 2: COMPILED})
    assert settled(chosen, 4.0)
    assert (chosen.chosen, chosen.chosen.taken) == (chosen.forms[1], 0)  # one more is not tried
    alone = engine(monkeypatch, {1: COMPILED, 2: COMPILED})
    assert len(alone.forms) == 1
    assert settled(alone, 4.0)
    assert alone.chosen.taken == 1


def test_nothing_is_taken_where_another_way_is_faster_or_none_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not settled(engine(monkeypatch, {1: ENDED, 2: COMPILED}), 1.5)
    assert not settled(engine(monkeypatch, {1: [(False, 0.0)]}), 4.0)
    assert engine(monkeypatch, {}).forms == []


def test_without_benchmark_the_first_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = engine(monkeypatch, {1: [(False, 0.0), *ENDED], 2: COMPILED}, tries=False)
    assert settled(chosen, 0.1)
    assert (chosen.chosen, chosen.chosen.taken) == (chosen.forms[0], 1)
    assert chosen.forms[1].compilations == 0


def test_a_choice_stays_when_another_frame_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = engine(monkeypatch, {1: [(True, 1.0), (True, 2.0), (True, 3.0)]})
    assert settled(chosen, 4.0)
    compile_all([chosen], torch.device("cuda"))
    assert settled(chosen, 0.1)
    assert chosen.chosen.taken == 0


def test_compiling_ahead_compiles_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    beside, alone = {1: ENDED, 2: COMPILED}, {1: [(True, 0.0), *COMPILED * 3]}
    for ways, tries, count in ((beside, True, 1), (alone, True, 4), (beside, False, 0), (alone, False, 2)):
        chosen = engine(monkeypatch, ways, tries)
        chosen.compile()
        assert chosen.forms[-1].compilations == count  # with one that does not work
        assert settled(chosen, 4.0)


def test_a_plan_is_prepared_once_for_all_captures() -> None:
    class Kernel:
        calls = 0

        def propose(self) -> None:
            self.calls += 1

        def prepare(self, plan: Any) -> None:
            self.calls += 10

    kernels = {name: Kernel() for name in ("a", "b")}
    nodes = {name: SimpleNamespace(kernel=kernel) for name, kernel in kernels.items()}
    plan: Any = SimpleNamespace(nodes=nodes, scratch={}, stale=torch.zeros(1))
    calls: Any = [(SimpleNamespace(path=name), ()) for name in kernels]
    prepare(calls[:1], plan)
    prepare(calls, plan)
    assert [kernel.calls for kernel in kernels.values()] == [11, 11]
