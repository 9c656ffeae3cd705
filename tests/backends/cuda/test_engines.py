"""Which of cuDNN's ways is taken; without a GPU, on ways of which it is said how long they take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("deltafx._cuda")
from deltafx.backends.cuda import engines
from deltafx.backends.cuda.engines import NOTHING, Engine, Way, compile_all
from deltafx.backends.cuda.parts import prepare

RELU = ("relu", "", 0.0)
ENDED: list[tuple[bool, float]] = [(False, 5.0), (False, 3.0), (False, 9.0)]
COMPILED: list[tuple[bool, float]] = [(True, 2.0), (True, 1.0)]


class Proposed:
    """As the compiled class: of each way, whether it is compiled, and its milliseconds; 0 for what does not work."""

    def __init__(self, ways: dict[int, list[tuple[bool, float]]], ending: tuple):
        if len(ending) not in ways:
            raise RuntimeError("no engines")
        self.known, self.compiled = ways[len(ending)], 0

    @property
    def ways(self) -> list[bool]:
        return [compiles for compiles, _ in self.known]

    def make(self, way: int) -> bool:
        self.compiled += self.known[way][0]
        return self.known[way][1] > 0


def engine(monkeypatch: pytest.MonkeyPatch, ways: dict[int, list[tuple[bool, float]]], tries: bool = True) -> Engine:
    """By the number of operations, what cuDNN has for it."""
    monkeypatch.setattr(engines._cuda, "FusedConvolution", lambda ending: Proposed(ways, ending), raising=False)
    monkeypatch.setattr(engines, "milliseconds", lambda call: call())
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", tries)
    return Engine({"ending": (RELU,)})


def settled(engine: Engine, otherwise: float) -> tuple[int, int] | None:
    """The chosen way: how many operations cuDNN was asked for, and its number."""

    def run(way: Way) -> float:
        return way.form.known[way.number][1]

    if not engine.settle(run, lambda: otherwise):  # type: ignore[arg-type,return-value]
        assert engine.chosen is None
        return None
    assert engine.chosen is not None
    forms = list({id(way.form): way.form for way in engine.ways})
    return forms.index(id(engine.chosen.form)) + 1, engine.chosen.number


def test_the_fastest_way_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled(engine(monkeypatch, {1: ENDED}), 4.0) == (1, 1)


def test_kernels_that_are_compiled_are_asked_for_with_an_operation_that_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert NOTHING == ("mul", "number", 1.0)
    assert settled(engine(monkeypatch, {1: ENDED, 2: COMPILED}), 4.0) == (2, 0)  # one more is not tried
    assert settled(engine(monkeypatch, {1: COMPILED, 2: ENDED}), 4.0) == (1, 1)  # it is not asked again


def test_nothing_is_chosen_where_another_way_is_faster_or_none_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled(engine(monkeypatch, {1: ENDED, 2: COMPILED}), 1.5) is None
    assert settled(engine(monkeypatch, {1: [(False, 0.0)]}), 4.0) is None
    assert engine(monkeypatch, {}).ways == []


def test_without_benchmark_the_first_that_works_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = engine(monkeypatch, {1: [(False, 0.0), *ENDED], 2: COMPILED}, tries=False)
    assert settled(chosen, 0.1) == (1, 1)
    assert sum(way.form.compiled for way in chosen.ways) == 0


def test_a_choice_stays_when_another_frame_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = engine(monkeypatch, {1: [(True, 1.0), (True, 2.0), (True, 3.0)]})
    assert settled(chosen, 4.0) == (1, 0)
    compile_all([chosen], torch.device("cuda"))
    assert settled(chosen, 0.1) == (1, 0)


def test_compiling_ahead_compiles_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    beside, alone = {1: ENDED, 2: COMPILED}, {1: [(True, 0.0), *COMPILED * 3]}
    for ways, tries, count in ((beside, True, 1), (alone, True, 4), (beside, False, 0), (alone, False, 2)):
        chosen = engine(monkeypatch, ways, tries)
        chosen.compile()
        assert chosen.ways[-1].form.compiled == count  # with one that does not work
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
