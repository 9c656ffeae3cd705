import collections

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import deltafx
from deltafx import ops
from deltafx.passes import canonicalise_operators
from tests.passes.helpers import apply, assert_follows, before, calls, clip, frame, module_at, net, operators


@pytest.mark.parametrize(
    ("forward", "operator"),
    [
        (lambda self, x: self.conv(x), ops.Conv),
        (lambda self, x: F.conv2d(x, self.conv.weight, self.conv.bias, 2, 1), ops.Conv),
        (lambda self, x: F.conv2d(input=x, weight=self.conv.weight, stride=2, padding=1), ops.Conv),
        (lambda self, x: torch.conv2d(x, self.weight, padding="valid"), ops.Conv),
        (lambda self, x: F.linear(x, self.matrix), ops.Linear),
        (lambda self, x: F.relu(x), ops.Pointwise),
        (lambda self, x: torch.relu(x), ops.Pointwise),
        (lambda self, x: x.relu(), ops.Pointwise),
        (lambda self, x: self.relu(x), ops.Activation),
        (lambda self, x: F.batch_norm(x, self.mean, self.var, eps=1e-3), ops.Affine),
        (lambda self, x: self.pool(x), ops.MaxPool),
        (lambda self, x: F.max_pool2d(x, 2), ops.MaxPool),
        (lambda self, x: F.max_pool2d(x, kernel_size=2, ceil_mode=True), ops.MaxPool),
        (lambda self, x: torch.flatten(x, 1), ops.Reshape),
        (lambda self, x: x.flatten(1), ops.Reshape),
        (lambda self, x: x.view(2, -1), ops.Reshape),
        (lambda self, x: torch.cat([x, x], 1), ops.Concat),
        (lambda self, x: x.mean((2, 3)), ops.Reduction),
        (lambda self, x: torch.mean(x, dim=(2, 3)), ops.Reduction),
        (lambda self, x: x[:, 1:], ops.GetItem),
        (lambda self, x: x + 1, ops.Pointwise),
        (lambda self, x: 2 - x, ops.Pointwise),
        (lambda self, x: torch.add(x, x, alpha=2), ops.Pointwise),
    ],
)
def test_every_spelling_becomes_the_operator(forward, operator):
    parts = {
        "conv": nn.Conv2d(3, 4, 3, stride=2, padding=1), "relu": nn.ReLU(inplace=True), "pool": nn.MaxPool2d(2),
        "weight": nn.Parameter(torch.randn(4, 3, 2, 3)), "matrix": torch.randn(5, 11), "mean": torch.randn(3),
        "var": torch.rand(3) + 1,
    }  # fmt: skip
    graph_module, count = apply(canonicalise_operators, net(forward, **parts), frame())
    (op,) = [node for node in graph_module.graph.nodes if node.op == "call_module"]
    assert type(graph_module.get_submodule(op.target)) is operator
    assert all(node.op in ("placeholder", "call_module", "output") for node in graph_module.graph.nodes)
    assert count >= 1


def test_weights_are_borrowed():
    """Parameters of our own over the caller's storage."""
    model = net(lambda self, x: self.conv(x) * self.gain, conv=nn.Conv2d(3, 4, 1), gain=nn.Parameter(torch.ones(1)))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    ours = {p.data_ptr(): p for p in graph_module.parameters()}
    for theirs in model.parameters():
        assert ours[theirs.data_ptr()] is not theirs


def test_constant_read_twice_is_one_parameter():
    model = net(lambda self, x: (x * self.gain) * self.gain, gain=nn.Parameter(torch.ones(1)))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    assert len(list(graph_module.parameters())) == 1


# -- islands ----------------------------------------------------------------------------------------------------------


def island_of(graph_module: fx.GraphModule, path: str) -> ops.Island:
    op = module_at(graph_module, path)
    assert isinstance(op, ops.Island)
    return op


def test_weight_computed_from_the_frame():
    model = net(lambda self, x: F.conv2d(x, x.mean((0, 2, 3)).view(1, 3, 1, 1)))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    assert island_of(graph_module, "conv2d").reason == "its weights or options are computed from the frame"
    assert_follows(model, clip())


def test_option_computed_from_the_frame():
    model = net(lambda self, x: F.conv2d(x, self.weight, padding=(x.shape[2] // 2, 0)), weight=torch.randn(4, 3, 1, 1))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    assert island_of(graph_module, "conv2d").reason == "its weights or options are computed from the frame"


def test_unknown_function():
    model = net(lambda self, x: torch.cumprod(x, dim=1))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    assert island_of(graph_module, "cumprod").reason == "no operator is known for it"
    assert_follows(model, clip())


def test_unknown_module():
    model = net(lambda self, x: self.rnn(x.flatten(1, 2))[0], rnn=nn.GRU(11, 5, batch_first=True))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    assert island_of(graph_module, "rnn").reason == "no operator is known for GRU"
    assert_follows(model, clip())


def test_module_with_hooks():
    conv = nn.Conv2d(3, 4, 1)
    conv.register_forward_hook(lambda module, args, result: result * 2)
    model = net(lambda self, x: self.conv(x), conv=conv)
    graph_module, _ = apply(canonicalise_operators, model, frame())
    assert island_of(graph_module, "conv").reason == "it has hooks, which may do anything"
    assert_follows(model, clip())


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weight_that_a_hook_computes():
    """Under hooks, that is not a tensor which can be copied."""
    model = nn.Sequential(torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 1))).eval()
    model(frame())
    assert_follows(model, clip())


def test_module_with_a_forward_of_its_own():
    conv = nn.Conv2d(3, 3, 1)
    conv.forward = lambda x: x * 2
    graph_module, _ = apply(canonicalise_operators, net(lambda self, x: self.conv(x), conv=conv), frame())
    assert island_of(graph_module, "conv").reason == "no operator is known for Conv2d"


def test_module_called_with_more_than_one_argument():
    model = net(lambda self, x: self.up(x, output_size=[18, 22]), up=nn.ConvTranspose2d(3, 4, 2, stride=2))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    assert island_of(graph_module, "up").reason == "it is called with more than one argument"


@pytest.mark.parametrize(
    "forward", [lambda self, x: self.norm(x), lambda self, x: F.batch_norm(x, None, None, training=True)]
)
def test_batch_norm_without_statistics(forward):
    model = net(forward, norm=nn.BatchNorm2d(3, track_running_stats=False))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    (path,) = operators(graph_module)
    assert island_of(graph_module, path).reason == "it normalises with the statistics of the batch"
    assert_follows(model, clip())


def test_what_does_not_depend_on_the_frame_needs_no_comment():
    model = net(lambda self, x: x + torch.linspace(0, 1, x.shape[3]))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    island = island_of(graph_module, "linspace")
    assert island.wanted
    assert island.reason == "it does not depend on the frame"
    deltafx.convert(model, strict=True)


def test_random_numbers_are_drawn_again_when_the_frame_changes():
    model = net(lambda self, x: x * 0 + torch.rand(x.shape))
    converted = deltafx.convert(model)
    first, second = (converted(frame()) for _ in range(2))
    assert not torch.equal(first, second)
    with pytest.raises(deltafx.ConvertError, match="rand runs dense, it draws random numbers"):
        deltafx.convert(model, strict=True)


def test_unknown_method_is_refused():
    graph = fx.Graph()
    graph.output(graph.call_method("no_such_method", (graph.placeholder("x"),)))
    with pytest.raises(deltafx.ConvertError, match=r"no_such_method: torch.Tensor has no method 'no_such_method'"):
        deltafx.convert(fx.GraphModule(nn.Module(), graph).eval())


# -- keep_dense -------------------------------------------------------------------------------------------------------


def blocks() -> nn.Module:
    def block() -> nn.Module:
        return nn.Sequential(collections.OrderedDict(conv=nn.Conv2d(3, 3, 3, padding=1), act=nn.ReLU()))

    return net(lambda self, x: self.second(self.second(self.first(x))).relu(), first=block(), second=block())


@pytest.mark.parametrize(
    ("name", "dense"),
    [
        ("first.conv", ["first.conv"]),
        ("first", ["first.conv", "first.act"]),
        ("second", ["second.conv", "second.act", "second.conv#2", "second.act#2"]),
        ("second.conv", ["second.conv", "second.conv#2"]),
        ("second.conv#2", ["second.conv#2"]),
        ("Conv2d", ["first.conv", "second.conv", "second.conv#2"]),
        ("conv2d", ["first.conv", "second.conv", "second.conv#2"]),
        ("ReLU", ["first.act", "second.act", "second.act#2"]),
        ("relu", ["first.act", "second.act", "second.act#2", "relu"]),
    ],
)
def test_keeps_dense(name, dense):
    model = blocks()
    graph_module, context = before(canonicalise_operators, model, keep_dense=[name])
    canonicalise_operators(graph_module, context)
    islands = [path for path in operators(graph_module) if isinstance(module_at(graph_module, path), ops.Island)]
    assert islands == dense
    assert {island_of(graph_module, path).reason for path in islands} == {"named in keep_dense"}
    assert_follows(model, clip(), keep_dense=[name], strict=True)


def test_unknown_name_in_keep_dense():
    with pytest.raises(deltafx.ConvertError, match=r"unknown .*keep_dense 'first.convv'. Did you mean 'first.conv'"):
        deltafx.convert(blocks(), keep_dense=["first.convv"])


# -- call sites and shapes --------------------------------------------------------------------------------------------


def test_every_call_of_a_shared_module_is_an_operator_of_its_own():
    model = net(lambda self, x: self.conv(self.conv(self.conv(x))), conv=nn.Conv2d(3, 3, 1))
    graph_module, count = apply(canonicalise_operators, model, frame())
    assert list(operators(graph_module)) == ["conv", "conv#2", "conv#3"]
    assert len({id(module_at(graph_module, path)) for path in operators(graph_module)}) == 3
    assert count == 3


def test_shape_arithmetic_stays():
    def forward(self, x):
        n, c, h, w = x.size()
        y = x.reshape(n, c // 3, 3, x.shape[2], x.size(-1)).flatten(1, 2)
        z = F.interpolate(y, size=(h * 2, w + len(self.parts)))
        return (z / float(2) + x.dim() * x.ndimension() + x.numel() - x.nelement()).to(x.dtype).to(device=x.device)

    model = net(forward, parts=nn.ModuleList([nn.ReLU()]))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    assert not any(isinstance(module, ops.Island) for module in graph_module.modules())
    assert {"size", "getattr", "getitem", "floordiv", "mul", "add"} <= set(calls(graph_module))
    assert_follows(model, clip(), strict=True)


def test_output_containers_stay():
    model = net(lambda self, x: collections.OrderedDict(y=x * 2, z=x + 1))
    graph_module, _ = apply(canonicalise_operators, model, frame())
    assert "OrderedDict" in calls(graph_module)
