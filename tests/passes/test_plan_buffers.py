import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deltafx.node import OWN, VIEW, SliceOf, Storage
from deltafx.passes import plan_buffers
from tests.passes.helpers import apply, assert_follows, clip, frame, module_at, net, operators

PARTS = {name: nn.Conv2d(3, out, 3, padding=1) for name, out in (("a", 3), ("b", 4), ("c", 2))}


def planned(forward, **parts) -> tuple[dict[str, Storage], dict[str, bool]]:
    """Where each node's buffer is to be, and, in a run over several frames, which buffers are part of another's."""
    model = net(forward, **PARTS, **parts)
    graph_module, _ = apply(plan_buffers, model, frame())
    storage = {path: module_at(graph_module, path).storage for path in operators(graph_module)}
    converted = assert_follows(model, clip())
    states = converted.runtime.plans[0].nodes
    assert_follows(model, clip(), payload="difference")
    return storage, {path: all(leaf.aliased for leaf in states[path].leaves) for path in storage if path in states}


def test_operands_write_into_the_concatenation():
    storage, aliased = planned(lambda self, x: torch.cat([self.a(x), self.b(x).relu(), self.c(x)], 1))
    assert storage == {"a": SliceOf("cat"), "b": SliceOf("cat"), "c": SliceOf("cat"), "cat": OWN}
    assert aliased["cat"]


def test_buffer_of_an_operand_is_its_slice():
    converted = assert_follows(net(lambda self, x: torch.cat([self.a(x), self.b(x)], 1), **PARTS), clip())
    states = converted.runtime.plans[0].nodes
    whole, second = states["cat"].leaves[0].value, states["b"].leaves[0].value
    assert second.data_ptr() == whole[:, 3:].data_ptr()
    assert second.shape == whole[:, 3:].shape


@pytest.mark.parametrize("dim", [1, -3, 2, -1])
def test_any_dimension(dim):
    _, aliased = planned(lambda self, x: torch.cat([self.a(x), self.d(x)], dim), d=nn.Conv2d(3, 3, 1))
    assert aliased["cat"]


def test_operand_with_another_reader():
    """Whoever else reads it reads the slice."""

    def forward(self, x):
        y = self.a(x)
        return torch.cat([y, self.b(x)], 1), y * 2, y.flatten(2)

    storage, _ = planned(forward)
    assert storage["a"] == SliceOf("cat")


def test_constant_operand_is_copied():
    storage, aliased = planned(
        lambda self, x: torch.cat([self.a(x), self.grid.expand(2, -1, -1, -1)], 1), grid=torch.rand(1, 2, 9, 11)
    )
    assert storage["a"] == SliceOf("cat")
    assert not aliased["cat"]


def test_operand_computed_once_is_copied():
    def forward(self, x):
        return torch.cat([self.a(x), torch.zeros(x.shape, device=x.device).sigmoid() * x.shape[1]], 1)

    _, aliased = planned(forward)
    assert not aliased["cat"]


# -- what is refused --------------------------------------------------------------------------------------------------


def test_skips_input():
    storage, aliased = planned(lambda self, x: torch.cat([x, self.a(x)], 1))
    assert storage == {"a": SliceOf("cat"), "cat": OWN}
    assert not aliased["cat"]


def test_skips_view():
    storage, aliased = planned(lambda self, x: torch.cat([self.a(x)[:, 1:], self.b(x)], 1))
    assert storage == {"a": OWN, "getitem": VIEW, "b": SliceOf("cat"), "cat": OWN}
    assert not aliased["cat"]


def test_skips_island():
    storage, _ = planned(lambda self, x: torch.cat([torch.cumprod(self.a(x), 1), self.b(x)], 1))
    assert storage["cumprod"] == OWN


def test_skips_operand_that_stands_there_twice():
    storage, _ = planned(lambda self, x: [y := self.a(x), torch.cat([y, self.b(x), y], 1)][-1])
    assert storage == {"a": OWN, "b": SliceOf("cat"), "cat": OWN}


def test_skips_operand_of_an_earlier_concatenation():
    def forward(self, x):
        y = self.a(x)
        return torch.cat([y, self.b(x)], 1), torch.cat([self.c(x), y], 1)

    storage, aliased = planned(forward)
    assert storage == {"a": SliceOf("cat"), "b": SliceOf("cat"), "c": SliceOf("cat#2"), "cat": OWN, "cat#2": OWN}
    assert aliased == {"a": False, "b": False, "c": False, "cat": True, "cat#2": False}


def test_skips_stack():
    storage, _ = planned(lambda self, x: torch.stack([self.a(x), self.d(x)], 1), d=nn.Conv2d(3, 3, 1))
    assert set(storage.values()) == {OWN}


def test_skips_concatenation_kept_dense():
    model = net(lambda self, x: torch.cat([self.a(x), self.b(x)], 1), **PARTS)
    graph_module, count = apply(plan_buffers, model, frame(), keep_dense=["cat"])
    assert module_at(graph_module, "a").storage == OWN
    assert count == 0


def test_skips_difference_payload():
    model = net(lambda self, x: torch.cat([self.a(x), self.b(x)], 1).flatten(1), **PARTS)
    graph_module, count = apply(plan_buffers, model, frame(), payload="difference")
    assert {module_at(graph_module, path).storage for path in operators(graph_module)} == {OWN}
    assert count == 0


# -- nests and chains -------------------------------------------------------------------------------------------------


def test_concatenation_of_concatenations():
    def forward(self, x):
        return torch.cat([torch.cat([self.a(x), self.b(x)], 1), self.c(x)], 1)

    storage, _ = planned(forward)
    assert storage == {
        "a": SliceOf("cat"), "b": SliceOf("cat"), "cat": SliceOf("cat#2"), "c": SliceOf("cat#2"), "cat#2": OWN,
    }  # fmt: skip


def test_dense_block():
    def forward(self, x):
        features = [self.first(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)).relu())
        return torch.cat(features, 1)

    layers = nn.ModuleList([nn.Conv2d(3 + 2 * k, 2, 3, padding=1) for k in range(3)])
    planned(forward, first=nn.Conv2d(3, 3, 1), layers=layers)


def test_views_of_views():
    def forward(self, x):
        left, right = self.b(x).chunk(2, 1)
        return torch.cat([left * 2, right.permute(0, 1, 3, 2).permute(0, 1, 3, 2)], 1).flatten(2)[:, :, 5:]

    storage, _ = planned(forward)
    views = {path for path, place in storage.items() if place == VIEW}
    assert views == {"chunk", "getitem", "getitem#2", "permute", "permute#2", "flatten", "getitem#3"}
    assert storage["mul"] == SliceOf("cat")


def test_view_of_a_slice():
    """Its strides may not allow the view, which then has a buffer of its own."""

    def forward(self, x):
        y = self.a(x)
        return torch.cat([y, self.b(x)], 1), y.flatten(1), y.reshape(2, 9, 33)

    planned(forward)


def test_count():
    model = net(lambda self, x: torch.cat([self.a(x), self.b(x)], 1).flatten(1), **PARTS)
    assert apply(plan_buffers, model, frame())[1] == 3


def test_nothing_to_do():
    assert apply(plan_buffers, net(lambda self, x: F.relu(self.a(x)), **PARTS), frame())[1] == 0
