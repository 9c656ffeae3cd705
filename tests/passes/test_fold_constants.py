import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import FrozenBatchNorm2d

from deltafx.passes import fold_affine, fold_constants
from tests.passes.helpers import apply, assert_follows, before, calls, clip, frame, net, operators


def constants(graph_module: fx.GraphModule) -> list[str]:
    return [node.meta["path"] for node in graph_module.graph.find_nodes(op="get_attr")]


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: x * (self.weight * 2 + 1),
        lambda self, x: x * self.weight.reshape(1, -1, 1, 1).exp(),
        lambda self, x: x + self.project(self.weight.flatten()).view(3, 1, 1),
        lambda self, x: x + self.weight.new_zeros(3, 1, 1).fill_(2.0),
        lambda self, x: x * torch.chunk(self.weight, 3)[1],
    ],
)
def test_computes_once(forward):
    model = net(forward, weight=nn.Parameter(torch.randn(3, 1, 1)), project=nn.Linear(3, 3))
    graph_module, count = apply(fold_constants, model, frame())
    assert len(calls(graph_module)) == 1
    assert len(constants(graph_module)) == 1
    assert count > 0
    assert_follows(model, clip(), strict=True)


def test_reads_nothing():
    graph = fx.Graph()
    x = graph.placeholder("x")
    steps = graph.call_function(torch.arange, (11,))
    graph.output(graph.call_function(torch.add, (x, graph.call_function(torch.mul, (steps, 2)))))
    graph_module, count = apply(fold_constants, fx.GraphModule(nn.Module(), graph).eval(), frame())
    assert calls(graph_module) == ["add"]
    assert count == 3  # one constant, and two calls that nothing reads


def test_shape_of_a_constant():
    model = net(lambda self, x: x.reshape(-1, *self.weight.shape[:1], 99) * self.weight, weight=torch.randn(3, 1))
    apply(fold_constants, model, frame())
    assert_follows(model, clip())


def test_weight_of_a_functional_convolution():
    """A standardised weight, as in timm's StdConv2d."""

    def forward(self, x):
        weight = F.batch_norm(self.weight.reshape(1, 4, -1), None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, F.normalize(weight, dim=1), padding=1)

    converted = assert_follows(net(forward, weight=nn.Parameter(torch.randn(4, 3, 3, 3))), clip(), strict=True)
    assert operators(converted) == {"conv2d": "conv2d"}


def test_frozen_batch_norm_ends_in_the_convolution():
    norm = FrozenBatchNorm2d(4)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 2)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU()).eval()
    graph_module, _ = apply(fold_affine, model, frame())
    assert operators(graph_module) == {"0": "conv2d", "2": "activation"}
    assert constants(graph_module) == []


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: x + torch.randn_like(self.weight),
        lambda self, x: x + self.weight.clone().normal_(),
        lambda self, x: x + torch.bernoulli(self.weight),
        lambda self, x: x + F.dropout(self.weight, training=True),
        lambda self, x: x + torch.rand(3, 1, 1, device=self.weight.device),
    ],
)
def test_does_not_fold_random_numbers(forward):
    graph_module, context = before(fold_constants, net(forward, weight=nn.Parameter(torch.rand(3, 1, 1))))
    fold_constants(graph_module, context)
    graph_module.recompile()
    assert len(calls(graph_module)) >= 2
    x = torch.zeros(2, 3, 9, 11)
    assert not all(torch.equal(graph_module(x), graph_module(x)) for _ in range(9))


def test_does_not_fold_what_depends_on_the_frame():
    model = net(lambda self, x: x * (self.weight * x.shape[1]), weight=torch.randn(3, 1, 1))
    graph_module, count = apply(fold_constants, model, frame())
    assert "mul" in calls(graph_module)
    assert count == 0


def test_removes_what_nothing_reads():
    def forward(self, x):
        x.mean((2, 3))
        self.conv(x)
        x.shape[0] * 2
        return x * 2

    graph_module, count = apply(fold_constants, net(forward, conv=nn.Conv2d(3, 4, 1)), frame())
    assert calls(graph_module) == ["mul"]
    assert count == 5


def writes(x):
    return x.add_(1)


def test_leaves_the_model_alone():
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.get_attr("weight")
    graph.output(graph.call_function(torch.mul, (x, graph.call_function(writes, (weight,)))))
    root = nn.Module()
    root.weight = nn.Parameter(torch.zeros(1), requires_grad=False)
    graph_module, context = before(fold_constants, fx.GraphModule(root, graph).eval())
    fold_constants(graph_module, context)
    assert root.weight.item() == 0
