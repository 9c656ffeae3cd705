import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.models.video import mvit

import deltafx
from deltafx.passes import functionalise
from tests.passes.helpers import apply, assert_follows, assert_same, before, calls, clip, frame, net


@pytest.mark.parametrize(
    "write",
    [
        lambda x: F.relu(x, inplace=True),
        lambda x: F.relu(x, True),
        lambda x: F.leaky_relu(x, 0.1, True),
        lambda x: F.hardtanh(x, -1, 1, True),
        lambda x: F.hardtanh(x, inplace=True, min_val=-1.0),
        lambda x: F.relu_(x),
        lambda x: torch.relu_(x),
        lambda x: torch.sigmoid_(x),
        lambda x: x.add_(1),
        lambda x: x.mul_(x),
        lambda x: x.clamp_(min=0),
        lambda x: x.fill_(3.0),
        lambda x: x.zero_(),
        lambda x: x.copy_(x * 2),
        lambda x: x.masked_fill_(x > 0, 5.0),
        lambda x: operator.iadd(x, 1),
        lambda x: operator.itruediv(x, 3),
        lambda x: operator.ipow(x, 2),
        lambda x: operator.setitem(x, (slice(None), 0), 7.0),
    ],
)
def test_later_readers_see_what_was_written(write):
    def forward(self, x):
        y = x * 2
        read_before = y + 1
        write(y)
        return read_before, y + 3, y

    _, count = apply(functionalise, net(forward), frame())
    assert count == 1
    assert_follows(net(forward), clip())


def test_module_in_place():
    def forward(self, x):
        y = x * 2
        z = self.relu(y)
        return y - 1, z

    _, count = apply(functionalise, net(forward, relu=nn.ReLU(inplace=True)), frame())
    assert count == 1  # one reader that reads something else now
    _, count = apply(functionalise, nn.Sequential(nn.ReLU(inplace=True)).eval(), frame())
    assert count == 0


def test_augmented_assignment():
    def forward(self, x):
        y = x + 1
        z = y
        y *= 2
        y -= x
        return y, z

    graph_module, count = apply(functionalise, net(forward), frame())
    assert calls(graph_module) == ["add", "mul", "sub"]
    assert count == 2


def test_writes_in_a_row():
    def forward(self, x):
        y = self.conv(x)
        y.add_(1)
        y.relu_()
        z = y * 2
        y.zero_()
        return y, z

    _, count = apply(functionalise, net(forward, conv=nn.Conv2d(3, 4, 1)), frame())
    assert count == 3


def test_item_assignment():
    def forward(self, x):
        y = x * 2
        y[:, 0] = 1
        y[:, 1, 2:] += 5
        y[..., 3] = x[..., 4]
        return y

    _, count = apply(functionalise, net(forward), frame())
    assert count == 4
    assert_follows(net(forward), clip())


def test_shift_of_channels_written_by_slices():
    def forward(self, x):
        shifted = torch.zeros_like(x)
        shifted[:, :1, 1:] = x[:, :1, :-1]
        shifted[:, 1:] = x[:, 1:]
        return shifted

    assert_follows(net(forward), clip())


def test_host_arithmetic_stays():
    def forward(self, x):
        size = x.shape[2]
        size += 1
        return F.interpolate(x, size=size)

    graph_module, count = apply(functionalise, net(forward), frame())
    assert count == 1
    assert "add" in calls(graph_module)


def test_input_is_left_alone():
    def forward(self, x):
        x += 1
        return x * 2

    graph_module, _ = apply(functionalise, net(forward), frame())
    x = frame()
    kept = x.clone()
    graph_module(x)
    assert torch.equal(x, kept)


def test_write_without_a_plain_form_keeps_its_meaning():
    """`x.bernoulli_()` has probability 0.5, `x.bernoulli()` reads probabilities from x."""
    graph_module, context = before(functionalise, net(lambda self, x: x.mul(0.0).bernoulli_()))
    functionalise(graph_module, context)
    graph_module.recompile()
    assert 0.3 < graph_module(torch.zeros(1000)).mean() < 0.7


def twice_(x):
    return x.mul_(2)


def test_logical_operators_write_nothing():
    """The functions of `&` and `|` have names with an underscore at their end."""
    _, count = apply(functionalise, net(lambda self, x: (x > 0) & (x < 1) | (x > 2)), frame())
    assert count == 0


def test_function_of_the_user_gets_a_copy():
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(torch.relu, (x,))
    written = graph.call_function(twice_, (y,))
    graph.output((y, written))
    _, count = apply(functionalise, fx.GraphModule(nn.Module(), graph).eval(), frame())
    assert count == 1


def test_function_that_is_known_to_write():
    """Whose result MViT does not even read."""

    def forward(self, x):
        y = x * 2
        mvit._add_shortcut(y, x, True)
        return y

    graph_module, _ = apply(functionalise, net(forward), frame())
    assert calls(graph_module) == ["mul", "add_shortcut"]
    assert_follows(net(forward), clip())


@fx.wrap
def write_somewhere(x):
    x[:, 0] = 0


def test_refuses_unknown_function_that_nobody_reads():
    def forward(self, x):
        y = x * 2
        write_somewhere(y)
        return y

    with pytest.raises(deltafx.ConvertError, match=r"write_somewhere: nothing reads what write_somewhere returns"):
        deltafx.convert(net(forward))


def test_overload_that_writes():
    graph = fx.Graph()
    y = graph.call_function(torch.relu, (graph.placeholder("x"),))
    graph.call_function(torch.ops.aten.add_.Tensor, (y, y))
    graph.output(y)
    _, count = apply(functionalise, fx.GraphModule(nn.Module(), graph).eval(), frame())
    assert count == 1


def test_drops_copies():
    def forward(self, x):
        y = x * 2
        kept = y.clone()
        y += 1
        return y + torch.clone(kept)

    graph_module, count = apply(functionalise, net(forward), frame())
    assert calls(graph_module) == ["mul", "add", "add"]
    assert count == 3


# -- writes through views ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: [y := x * 2, y.view(2, -1).add_(1), y][-1],
        lambda self, x: [y := x * 2, v := y.flatten(1), y.add_(1), v][-1],
        lambda self, x: [y := x * 2, torch.transpose(y.view(2, -1), 0, 1).relu_(), y][-1],
        lambda self, x: [y := x * 2, v := y.permute(0, 2, 3, 1), y.view(2, -1).relu_(), v][-1],
        lambda self, x: [y := x * 2, v := y[:, :1], y.add_(1), v][-1],
        lambda self, x: [y := x * 2, v := self.flatten(y), v.add_(1), y][-1],
        lambda self, x: [y := x * 2, v := y.float(), v.add_(1), y][-1],
        lambda self, x: [y := x * 2, y.chunk(3, 1)[0].add_(1), y][-1],
        lambda self, x: [y := x * 2, p := y.chunk(3, 1), p[0].add_(1), p[0].sub(1), y.sum()][-1],
    ],
)
def test_refuses_write_that_reaches_something_read_later(forward):
    model = net(forward, flatten=nn.Flatten())
    with pytest.raises(deltafx.ConvertError, match=r"writes in place into .*, which shares memory with .*, read later"):
        deltafx.convert(model)


def test_refusal_names_both_and_says_what_to_do():
    def forward(self, x):
        y = self.conv(x)
        y.view(2, -1).add_(1)
        return y

    model = net(forward, conv=nn.Conv2d(3, 4, 1))
    dm = deltafx.convert(model)  # in parts: what writes is the model's own code
    assert dm.not_whole == (
        "add: it writes in place into view, which shares memory with conv, read later. Make one of them a copy "
        "(x = x.clone()) and convert again."
    )
    for x in (frame(), frame(), frame() + 1):
        assert_same(dm, model, x)
    assert set(dm.parts) == {"conv"}


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: [v := (x * 2).view(2, -1), v.add_(1), v][-1],
        lambda self, x: [y := x * 2, v := y.view(2, -1), w := v + 1, y.relu_(), y, w][-2:],
        lambda self, x: [y := x * 2, y.relu_(), y.view(2, -1)][-1],
        lambda self, x: [y := x * 2, v := y.view(2, -1), v.relu_(), v.view(-1, y.shape[-1])][-1],
        lambda self, x: [y := (x * 2).chunk(3, 1), y[0].add_(1), y[1] * 2, y[2]][1:],
        lambda self, x: [p := torch.split(x * 2, 1, 1), a := p[0], b := p[1], a.add_(1), torch.cat([a, b], 1)][-1],
        lambda self, x: [y := x * 2, v := y.view(2, -1).clone(), v.add_(1), y][-1],
    ],
)
def test_allows_write_that_reaches_nothing_else(forward):
    apply(functionalise, net(forward), frame())
    assert_follows(net(forward), clip())


def test_refuses_write_into_the_model():
    def forward(self, x):
        self.count.view(1, 1).add_(1)
        return x * self.count

    with pytest.raises(deltafx.ConvertError, match=r"^add: it writes in place into count, which belongs to the model"):
        deltafx.convert(net(forward, count=nn.Parameter(torch.zeros(1))))


def test_refuses_out_argument():
    def forward(self, x):
        y = x * 2
        torch.add(x, 1, out=y)
        return y

    with pytest.raises(deltafx.ConvertError, match="add: it writes into out="):
        deltafx.convert(net(forward))
