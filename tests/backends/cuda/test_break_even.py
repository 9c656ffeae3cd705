"""Which parts a frame has, and from when on they are dense. It asks no device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deltafx.state import Leaf, NodeState

pytest.importorskip("deltafx._cuda")
from deltafx.backends.cuda.break_even import MOST_PARTS, dense_seconds, split, updated_share


def network(pixels: int, nodes: int = 40, withholds: bool = True, launches: int = 1) -> tuple[list[Any], Any]:
    """Nodes with 64 channels and 3x3 windows, each of so many kernels in a dense frame, as a plan has them."""
    states, calls = {}, []
    for number in range(nodes):
        shape = torch.Size((1, 64, 1, pixels))
        leaf = Leaf(shape, torch.float16, torch.device("cpu"), (64 * pixels, pixels, pixels, 1))
        path = f"node{number}"
        states[path] = NodeState(path, leaf, macs=9 * 64 * 64 * pixels, operands=[shape])
        states[path].bind(SimpleNamespace(dense_launches=launches))
        calls.append((SimpleNamespace(path=path), ()))
    return calls, SimpleNamespace(nodes=states, forced_mask=None, withholds=lambda node: withholds)


@pytest.mark.parametrize("pixels", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("nodes", [1, 2, 40])
@pytest.mark.parametrize("launches", [0, 1])  # views have no kernel
def test_parts_are_all_nodes_in_their_order(pixels: int, nodes: int, launches: int) -> None:
    calls, plan = network(pixels, nodes, launches=launches)
    parts = split(calls, plan)
    assert [call for part in parts for call in part] == calls
    assert all(parts)
    assert len(parts) <= MOST_PARTS


def test_a_large_network_has_parts_that_take_about_as_long() -> None:
    calls, plan = network(1_000_000)
    parts = split(calls, plan)
    assert len(parts) == MOST_PARTS
    times = [dense_seconds(part, plan) for part in parts]
    assert max(times) < 1.5 * min(times)
    assert len(split(*network(1_000))) == 1


def test_from_when_on_dense_is_faster() -> None:
    """The more there is to do the later; sooner where changes spread; and always before everything is updated."""
    shares = [updated_share(*network(pixels)) for pixels in (100, 20_000, 100_000, 1_000_000)]
    assert shares == sorted(shares)
    assert shares[0] == 0  # nodes that take longer to start than to run
    assert 0.1 < shares[-1] < 0.5
    assert updated_share(*network(1_000_000, withholds=False)) < shares[-1]


@pytest.mark.parametrize("pixels", [2_000, 100_000])
def test_dense_is_faster_later_where_a_node_is_two_kernels(pixels: int) -> None:
    calls, one = network(pixels)
    calls, two = network(pixels, launches=2)
    assert dense_seconds(calls, one) < dense_seconds(calls, two)
    assert updated_share(calls, one) <= updated_share(calls, two)
