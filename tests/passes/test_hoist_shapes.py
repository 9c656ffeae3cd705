import pytest
import torch.nn.functional as F
from torch import fx, nn

from deltafx.passes import hoist_shapes
from deltafx.passes.extents import is_shape
from tests.passes.helpers import apply, frame, net


def pyramid(size, lateral: nn.Module | None = None) -> nn.Module:
    """Two levels, merged as a feature pyramid does; `size(y)` asks the finer one for its size."""

    def forward(self, x):
        fine = self.fine(x)
        lateral = self.lateral(fine)
        return lateral + F.interpolate(self.coarse(fine), size=size(lateral)), fine

    parts = {"fine": nn.Conv2d(3, 4, 3, stride=2), "coarse": nn.Conv2d(4, 4, 3, stride=2)}
    return net(forward, **parts, lateral=lateral or nn.Conv2d(4, 4, 1))


def asked(graph_module: fx.GraphModule) -> set[str]:
    """Who is asked for the size."""
    nodes = [n for n in graph_module.graph.nodes if is_shape(n) or (n.op == "call_method" and n.target == "size")]
    return {node.args[0].meta["path"] for node in nodes}


@pytest.mark.parametrize(
    "size",
    [
        lambda y: y.shape[-2:],
        lambda y: y.shape[2:],
        lambda y: y.size()[2:],
        lambda y: (y.shape[2], y.shape[-1]),
        lambda y: (y.size(2), y.size(3)),
        lambda y: (y.shape[2] * 1, y.size(-1) + 0),
    ],
)
def test_asks_the_input_of_the_convolution(size):
    graph_module, count = apply(hoist_shapes, pyramid(size), frame())
    assert asked(graph_module) == {"fine"}
    assert count > 0


def test_asks_beyond_what_may_be_fused():
    lateral = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Sigmoid())
    graph_module, _ = apply(hoist_shapes, pyramid(lambda y: y.shape[2:], lateral), frame())
    assert asked(graph_module) == {"fine"}


@pytest.mark.parametrize(
    "lateral",
    [
        nn.Conv2d(4, 4, 3),  # another size
        nn.Sequential(nn.ReLU(), nn.Sigmoid()),  # may be fused into what gives its input
        nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3)),  # the same size, but nothing says so
    ],
)
def test_skips(lateral):
    graph_module, count = apply(hoist_shapes, pyramid(lambda y: y.shape[2:], lateral), frame())
    assert asked(graph_module) != {"fine"}
    assert count == 0


@pytest.mark.parametrize("size", [lambda y: (y.shape[1], 4), lambda y: y.shape[1:3], lambda y: (y.shape[2], y.size(1))])
def test_skips_question_for_channels(size):
    model = net(lambda self, x: F.interpolate(x, size=size(self.conv(x))), conv=nn.Conv2d(3, 4, 1))
    graph_module, _ = apply(hoist_shapes, model, frame())
    assert "conv" in asked(graph_module)
