import collections
import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn

import deltafx
from deltafx.node import DeltaNode, DeltaToDense, DenseToDelta
from deltafx.passes import rewrite_to_delta
from tests.passes.helpers import apply, assert_same, batch_norm, before, calls, frame, module_at, net, operators


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@dataclasses.dataclass
class Result:
    features: Tensor
    count: int


def paths(graph_module: fx.GraphModule, kind: type) -> list[str]:
    return [module.path for module in graph_module.modules() if isinstance(module, kind)]


def test_every_operator_becomes_a_delta_node():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    graph_module, count = apply(rewrite_to_delta, model, frame())
    assert calls(graph_module) == ["DenseToDelta", "DeltaNode", "DeltaNode", "DeltaNode", "DeltaToDense"]
    assert paths(graph_module, DeltaNode) == ["0", "1", "2"]
    assert paths(graph_module, DenseToDelta) == ["dense_to_delta.input"]
    assert paths(graph_module, DeltaToDense) == ["delta_to_dense.2"]
    assert count == 5


def test_says_what_a_node_was_folded_from():
    graph_module, _ = apply(rewrite_to_delta, nn.Sequential(nn.Conv2d(3, 4, 3), batch_norm(4)).eval(), frame())
    assert module_at(graph_module, "0").fused_from == ("0", "1")


def test_inputs_come_first():
    def forward(self, x, y, z=0.0, scale=2.0):
        return x * y * scale

    graph_module, _ = apply(rewrite_to_delta, net(forward), frame(), frame())
    names = [node.meta["path"] for node in graph_module.graph.nodes][:7]
    assert names[:4] == ["x", "y", "z", "scale"]
    assert names[4:] == ["dense_to_delta.x", "dense_to_delta.y", "dense_to_delta.scale"]  # nothing reads z


def test_unused_input():
    model = net(lambda self, x, unused: x * 2)
    converted = deltafx.convert(model)
    assert torch.equal(converted(frame().zero_() + 1, frame()), torch.full((2, 3, 9, 11), 2.0))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: (x * 2, [x + 1, {"third": x - 1}]),
        lambda self, x: {"a": x * 2, "b": (x + 1,)},
        lambda self, x: Pair(x * 2, x + 1),
        lambda self, x: Result(x * 2, x.shape[1]),
        lambda self, x: collections.OrderedDict(out=x * 2, aux=x + 1),
        lambda self, x: collections.OrderedDict(pair=Pair(x * 2, x), result=Result(x + 1, 3)),
        lambda self, x: (x * 2, x.shape, x.dtype, 3, None, "text"),
        lambda self, x: x,
        lambda self, x: (x, x),
        lambda self, x: self.weight,
        lambda self, x: (x, self.weight),
        lambda self, x: [y := x * 2, (y, y, y.chunk(3, 1))][-1],
    ],
)
def test_output_structure(forward):
    model = net(forward, weight=torch.randn(3))
    apply(rewrite_to_delta, model, frame())
    converted = deltafx.convert(model)
    for _ in range(2):
        x = frame()
        got, want = converted(x), model(x)
        assert_alike(got, want)


def assert_alike(got, want):
    assert type(got) is type(want)
    if isinstance(want, Tensor):
        assert torch.equal(got, want)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        assert_alike(list(got.values()), list(want.values()))
    elif dataclasses.is_dataclass(want):
        assert_alike(vars(got), vars(want))
    elif isinstance(want, (tuple, list)):
        assert len(got) == len(want)
        for a, b in zip(got, want):
            assert_alike(a, b)
    else:
        assert got == want


def test_same_tensor_twice_leaves_once():
    graph_module, _ = apply(rewrite_to_delta, net(lambda self, x: [y := x * 2, (y, [y])][-1]), frame())
    assert paths(graph_module, DeltaToDense) == ["delta_to_dense.mul"]


def test_input_returned_directly():
    graph_module, count = apply(rewrite_to_delta, nn.Identity().eval(), frame())
    assert calls(graph_module) == ["DenseToDelta", "DeltaToDense"]
    assert count == 2


def test_paths_stay_unique():
    """An input, a module and what the model returns may have one name."""
    model = net(lambda self, x: (x, self.x(x), self.dense_to_delta(x)), x=nn.ReLU(), dense_to_delta=Named())
    graph_module, _ = apply(rewrite_to_delta, model, frame())
    names = [node.meta["path"] for node in graph_module.graph.nodes]
    assert len(set(names)) == len(names)
    assert_same(deltafx.convert(model), model, frame())


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.x = nn.Sigmoid()

    def forward(self, x):
        return self.x(x)


@pytest.mark.parametrize(
    ("model", "rank"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1)), 4),
        (nn.Sequential(nn.ReLU(), nn.Sigmoid(), nn.MaxPool1d(2)), 3),
        (nn.Sequential(nn.ReLU()), None),
        (nn.Sequential(nn.Flatten(2), nn.MaxPool1d(2)), None),
    ],
)
def test_rank_that_the_operators_ask_for(model, rank):
    graph_module, context = before(rewrite_to_delta, model.eval())
    rewrite_to_delta(graph_module, context)
    (placeholder,) = graph_module.graph.find_nodes(op="placeholder")
    assert placeholder.meta["rank"] == rank


def test_shape_of_the_input_stays_on_the_host():
    graph_module, _ = apply(rewrite_to_delta, net(lambda self, x: x.reshape(x.shape[0], -1)), frame())
    assert operators(graph_module) == {"reshape": "reshape"}
    assert "getattr" in calls(graph_module)


def test_refuses_container_inside_the_network():
    graph = fx.Graph()
    x = graph.placeholder("x")
    holder = graph.call_function(collections.OrderedDict, ([("a", x)],))
    graph.output((holder, graph.call_function(len_of, (holder,))))
    with pytest.raises(deltafx.ConvertError, match="len_of: it is given a OrderedDict, which only the model's output"):
        deltafx.convert(fx.GraphModule(nn.Module(), graph).eval())


def len_of(holder):
    return holder["a"] * len(holder)
