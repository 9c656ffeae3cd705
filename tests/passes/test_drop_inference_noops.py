import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import StochasticDepth

from deltafx.passes import drop_inference_noops
from tests.passes.helpers import apply, before, calls, frame, net


@pytest.mark.parametrize(
    "module",
    [
        nn.Dropout(), nn.Dropout(inplace=True), nn.Dropout1d(), nn.Dropout2d(), nn.Dropout3d(), nn.AlphaDropout(),
        nn.FeatureAlphaDropout(), nn.Identity(), StochasticDepth(0.5, "row"),
    ],
    ids=str,
)  # fmt: skip
def test_drops_module(module):
    shape = {nn.Dropout1d: (2, 3, 9), nn.Dropout3d: (2, 3, 4, 5, 6)}.get(type(module), ())
    graph_module, count = apply(drop_inference_noops, nn.Sequential(module, nn.ReLU()).eval(), frame(*shape))
    assert calls(graph_module) == ["ReLU"]
    assert count == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: F.dropout(x, training=False),
        lambda self, x: F.dropout(x, 0.5, self.training),
        lambda self, x: F.dropout2d(x, 0.5, False, True),
        lambda self, x: F.alpha_dropout(x),  # its default is not to train
        lambda self, x: x.detach(),
        lambda self, x: torch.detach(x),
        lambda self, x: x.contiguous(),
    ],
)
def test_drops_function(function):
    graph_module, count = apply(drop_inference_noops, net(lambda self, x: function(self, x).relu()), frame())
    assert calls(graph_module) == ["relu"]
    assert count == 1


@pytest.mark.parametrize("function", [lambda x: F.dropout(x), lambda x: F.dropout(x, 0.5, training=True)])
def test_keeps_dropout_that_trains(function):
    graph_module, context = before(drop_inference_noops, net(lambda self, x: function(x)))
    assert drop_inference_noops(graph_module, context) == 0
    assert calls(graph_module) == ["dropout"]


def drop_path(x, drop_prob=0.0, training=False, scale_by_keep=True):
    return x


@pytest.mark.parametrize(("arguments", "left"), [((0.5, False), []), ((), []), ((0.5, True), ["drop_path"])])
def test_finds_the_training_argument_by_name(arguments, left):
    graph = fx.Graph()
    graph.output(graph.call_function(drop_path, (graph.placeholder("x"), *arguments)))
    graph_module, _ = apply(drop_inference_noops, fx.GraphModule(nn.Module(), graph).eval(), frame())
    assert calls(graph_module) == left


def test_drops_assert():
    def forward(self, x):
        torch._assert(x.shape[1] == 3, "three channels")
        return x.relu()

    graph_module, count = apply(drop_inference_noops, net(forward), frame())
    assert "_assert" not in calls(graph_module)
    assert count == 1


def test_view_of_contiguous_takes_any_strides():
    def forward(self, x):
        n, c, h, w = x.size()
        return x.transpose(1, 2).contiguous().view(n, c * h, w).view(n, -1)

    apply(drop_inference_noops, net(forward), frame())


def test_keeps_view_of_another_dtype():
    model = net(lambda self, x: x.contiguous().view(torch.int32))
    graph_module, _ = apply(drop_inference_noops, model, frame())
    assert calls(graph_module) == ["view"]


def test_drops_the_whole_network():
    graph_module, count = apply(drop_inference_noops, nn.Sequential(nn.Identity(), nn.Dropout()).eval(), frame())
    assert calls(graph_module) == []
    assert count == 2
