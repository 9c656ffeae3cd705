"""Which nodes of a frame run side by side, and that this changes nothing but the time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltafx
from deltafx.backends import unavailable
from deltafx.state import Leaf, NodeState

pytest.importorskip("deltafx._cuda")
from deltafx.backends.cuda import parts
from deltafx.backends.cuda.lanes import MOST_LANES, Lanes, Schedule


def lanes_of(reads: dict[str, str]) -> dict[str, int]:
    """The lanes of nodes with a name of one letter; each reads the outputs of some before it, or of `x`."""
    lanes, leaves = Lanes(), {"x": leaf()}
    for name, inputs in reads.items():
        leaves[name] = leaf()
        lanes.enter(NodeState(name, leaves[name]), [leaves[other] for other in inputs])
    return {name: leaves[name].lane for name in reads}


def leaf() -> Leaf:
    made = Leaf(torch.Size((1, 4, 2, 2)), torch.float32, torch.device("cpu"), (16, 4, 2, 1))
    made.mask = torch.zeros(1, dtype=torch.uint8)
    return made


def test_a_chain_is_one_lane() -> None:
    assert set(lanes_of({"a": "x", "b": "a", "c": "b", "d": "ca"}).values()) == {0}


def test_a_branch_is_beside_what_it_does_not_need_until_they_meet() -> None:
    found = lanes_of({"a": "x", "b": "a", "c": "b", "d": "a", "e": "cd", "f": "e", "g": "e", "h": "fg"})
    assert found == {"a": 0, "b": 0, "c": 0, "d": 1, "e": 0, "f": 0, "g": 2, "h": 0}


def test_lanes_are_used_again_once_what_they_led_to_is_elsewhere() -> None:
    found = lanes_of({"a": "x", "b": "a", "c": "a", "d": "a", "e": "a", "f": "cd", "g": "a", "h": "a"})
    assert found == {"a": 0, "b": 0, "c": 1, "d": 2, "e": 3, "f": 1, "g": 2, "h": 0}


def test_heads_that_nothing_reads_share_few_lanes() -> None:
    found = lanes_of({"a": "x", **dict.fromkeys("bcdefgh", "a")})
    assert set(found.values()) == set(range(MOST_LANES))


def test_a_node_waits_for_what_it_reads_in_other_lanes() -> None:
    reads = {"a": "x", "b": "a", "c": "a", "d": "bc"}
    leaves = {name: leaf() for name in ("x", *reads)}
    states = {name: NodeState(name, leaves[name]) for name in reads}
    plan: Any = SimpleNamespace(scratch={}, nodes={"x": NodeState("x", leaves["x"]), **states}, profiles=False)
    for name, inputs in reads.items():
        Lanes.of(plan).enter(states[name], [leaves[other] for other in inputs])
    calls: Any = [
        (SimpleNamespace(path=name), tuple(leaves[i].delta for i in inputs)) for name, inputs in reads.items()
    ]
    schedule = Schedule(calls, plan)
    assert schedule.lanes == [0, 0, 1, 0]
    assert schedule.awaits == [[], [], [0], [2]]
    assert [id(leaf) for leaf in schedule.outside] == [id(leaves["x"])]
    assert [id(leaf) for leaf in Schedule(calls[2:], plan).outside] == [id(leaves["a"]), id(leaves["b"])]
    plan.profiles = True
    assert Schedule(calls, plan).lanes == [0, 0, 0, 0]


class Branches(nn.Module):
    """Several branches of as many pixels, whose scratch would be the same, and several heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.branches = nn.ModuleList(nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv()) for _ in range(5))
        self.heads = nn.ModuleList(nn.Conv2d(24, 7, 1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = torch.relu(self.stem(x))
        x = torch.relu(sum(branch(x) for branch in self.branches) + x)
        return [head(x) for head in self.heads]


def conv() -> nn.Conv2d:
    return nn.Conv2d(24, 24, 3, padding=1)


def test_marks_are_cleared_before_any_lane_begins(monkeypatch: Any) -> None:
    """By a node they would be cleared in its lane, and what runs in others at that time may have marked something."""
    course: list[str] = []
    monkeypatch.setattr(parts, "captured", lambda work: work())
    monkeypatch.setattr(parts.Marks, "begin", lambda *_: course.append("clear"))
    monkeypatch.setattr(parts.Schedule, "run", lambda *_: course.append("lanes"))
    plan: Any = SimpleNamespace(scratch={}, nodes={}, profiles=False, timer=None)
    parts.PlainFrame([], plan)
    assert course == ["clear", "lanes"]


class TwoStems(nn.Module):
    """Both read the input, so that either may be the first to run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = (nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), conv()) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.one(x), self.other(x)]


@pytest.mark.cuda
@pytest.mark.skipif(bool(unavailable("cuda")), reason="it needs a GPU")
@torch.no_grad()
def test_two_stems_side_by_side_where_a_driver_knows_no_graphs_that_choose(monkeypatch: Any) -> None:
    monkeypatch.setattr(parts._cuda, "has_choices", lambda: False)
    model = TwoStems().eval().cuda().half()
    dm = deltafx.convert(model, backend="cuda", options={"dense_switch": False})
    picture = torch.randn(2, 3, 200, 320, device="cuda", dtype=torch.half)
    for number in range(12):
        picture[:, :, 5 * number : 5 * number + 20, 30:90] += 0.5
        for got, want in zip(dm(picture), model(picture), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2)


@pytest.mark.cuda
@pytest.mark.skipif(bool(unavailable("cuda")), reason="it needs a GPU")
@pytest.mark.parametrize("threshold", [0.0, 0.05])
@torch.no_grad()
def test_branches_in_one_graph_give_the_bits_that_they_give_one_after_the_other(threshold: float) -> None:
    model = Branches().eval().cuda().half()
    options = {"dense_switch": False}
    beside = deltafx.convert(model, backend="cuda", threshold=threshold, options=options)
    alone = deltafx.convert(model, backend="cuda", threshold=threshold, options={**options, "cuda_graph": False})
    torch.manual_seed(1)
    picture = torch.randn(2, 3, 200, 320, device="cuda", dtype=torch.half)  # too many pixels for a kernel to find them
    for number in range(12):
        picture[:, :, 5 * number : 5 * number + 20, 30:90] += 0.5
        for got, want in zip(beside(picture), alone(picture), strict=True):
            assert torch.equal(got, want), f"frame {number}"
    states = beside.runtime.plans[0].nodes.values()
    assert {leaf.lane for state in states for leaf in state.leaves} == set(range(MOST_LANES))
