import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deltafx.passes import fuse_pointwise
from tests.passes.helpers import apply, assert_follows, batch_norm, clip, frame, module_at, net, node_at, operators


def conv(stride: int = 1, out: int = 3) -> nn.Conv2d:
    return nn.Conv2d(3, out, 3, stride=stride, padding=1)


def fused(model: nn.Module, *inputs: torch.Tensor) -> dict[str, str]:
    """The chains that are left; checked at run time, with both payloads."""
    graph_module, count = apply(fuse_pointwise, model, *(inputs or (frame(),)))
    chains = operators(graph_module)
    assert count == sum(chain.count(" + ") for chain in chains.values())
    if not inputs:
        assert_follows(model, clip())
        assert_follows(model, clip(), payload="difference")
    return chains


def test_activation_after_convolution():
    assert fused(nn.Sequential(conv(), nn.ReLU()).eval()) == {"0": "conv2d + activation"}


def test_chain():
    chains = fused(net(lambda self, x: (self.conv(x).relu() * 2).sigmoid() ** 2, conv=conv()))
    assert chains == {"conv": "conv2d + pointwise + pointwise + pointwise + pointwise"}


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (nn.MaxPool2d(2), "max_pool2d"),
        (nn.AdaptiveAvgPool2d(1), "adaptive_avg_pool2d"),
        (nn.Upsample(scale_factor=2), "interpolate"),
        (nn.Linear(11, 4), "linear"),
        (nn.Softmax(1), "softmax"),
        (nn.GroupNorm(1, 3), "groupnorm"),
        (nn.ConvTranspose2d(3, 4, 2), "conv_transpose2d"),
        (nn.Tanh(), "activation"),
    ],
)
def test_activation_after(head, name):
    assert fused(nn.Sequential(head, nn.ReLU()).eval()) == {"0": f"{name} + activation"}


def test_residual():
    def forward(self, x):
        y = self.first(x)
        return F.relu(self.second(y) + y)

    graph_module, _ = apply(fuse_pointwise, net(forward, first=conv(), second=conv()), frame())
    second = node_at(graph_module, "second")
    assert operators(graph_module) == {"first": "conv2d", "second": "conv2d + pointwise + pointwise"}
    assert [source.meta["path"] for source in second.args] == ["first", "first"]
    assert module_at(graph_module, "second").fused_from == ("second", "add", "relu")
    assert fused(net(forward, first=conv(), second=conv()))


def test_residual_with_downsampling():
    """A 3x3 and a 1x1 with stride 2 give the same grid, so the sum goes into the later of the two."""

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)) + self.shortcut(x))

    parts = {"conv": conv(2), "norm": batch_norm(3), "shortcut": nn.Conv2d(3, 3, 1, stride=2)}
    graph_module, _ = apply(fuse_pointwise, net(forward, **parts), frame())
    assert operators(graph_module) == {"conv": "conv2d", "shortcut": "conv2d + pointwise + pointwise"}
    assert module_at(graph_module, "conv").fused_from == ("conv", "norm")
    assert fused(net(forward, **parts))


def test_stands_after_all_of_its_inputs():
    def forward(self, x):
        first = self.first(x)
        second = self.pool(self.second(x))
        return first - second

    chains = fused(net(forward, first=conv(), second=conv(), pool=nn.MaxPool2d(3, 1, 1)))
    assert chains == {"second": "conv2d", "pool": "max_pool2d", "first": "conv2d + pointwise"}
    assert list(chains) == ["second", "pool", "first"]


def test_prefers_the_convolution():
    """Of two producers that could take the sum, whichever comes last."""

    def forward(self, x):
        y = self.stem(x)
        return self.conv(y) + self.pool(y)

    chains = fused(net(forward, stem=conv(), conv=conv(), pool=nn.MaxPool2d(3, 1, 1)))
    assert chains == {"stem": "conv2d", "pool": "max_pool2d", "conv": "conv2d + pointwise"}


def test_tensor_with_itself():
    assert fused(net(lambda self, x: [y := self.conv(x), y * y][-1], conv=conv())) == {"conv": "conv2d + pointwise"}


def test_constants_that_do_not_enlarge():
    def forward(self, x):
        return self.conv(x).relu() * self.scale + self.number

    model = net(forward, conv=conv(), scale=torch.rand(3, 1, 1), number=nn.Parameter(torch.tensor(2.0)))
    assert fused(model) == {"conv": "conv2d + pointwise + pointwise + pointwise"}


# -- what is not fused ------------------------------------------------------------------------------------------------


def test_skips_what_has_a_second_reader():
    model = net(lambda self, x: [y := self.conv(x), (y.relu(), y)][-1], conv=conv())
    assert fused(model) == {"conv": "conv2d", "relu": "pointwise"}


def test_skips_broadcasting_gate():
    """A squeeze-excite gate keeps its own truncation point, and the product is not part of the gate."""

    def forward(self, x):
        y = self.conv(x).relu()
        return y * torch.sigmoid(self.excite(F.adaptive_avg_pool2d(y, 1)))

    chains = fused(net(forward, conv=conv(), excite=nn.Conv2d(3, 3, 1)))
    assert chains == {
        "conv": "conv2d + pointwise",
        "adaptive_avg_pool2d": "adaptive_avg_pool2d",
        "excite": "conv2d + pointwise",
        "mul": "pointwise",
    }


def test_skips_gate_of_one_channel():
    model = net(lambda self, x: self.conv(x) * self.attention(x), conv=conv(), attention=conv(out=1))
    assert fused(model) == {"conv": "conv2d", "attention": "conv2d", "mul": "pointwise"}


@pytest.mark.parametrize("shape", [(1, 3, 9, 1), (11,), (2, 1, 1, 1), (1, 1, 3, 1, 1)])
def test_skips_constant_that_may_enlarge(shape):
    model = net(lambda self, x: self.conv(x).relu() * self.scale, conv=conv(), scale=torch.rand(shape))
    assert fused(model) == {"conv": "conv2d + pointwise", "mul": "pointwise"}


def test_skips_unknown_extents():
    def forward(self, x):
        return self.conv(x) + self.other(x)

    other = nn.Sequential(nn.Upsample(scale_factor=2), nn.MaxPool2d(2))
    assert fused(net(forward, conv=conv(), other=other))["add"] == "pointwise"


def test_skips_different_grids():
    model = net(lambda self, x: self.conv(x) + self.other(x), conv=conv(), other=nn.Conv2d(3, 3, (9, 1)))
    chains = fused(model)
    assert chains == {"conv": "conv2d", "other": "conv2d", "add": "pointwise"}


def test_skips_two_inputs():
    """Nothing says that two frames have the same shape."""
    model = net(lambda self, x, y: self.conv(x) + self.conv(y), conv=conv())
    assert "add" in fused(model, frame(), frame(2, 3, 1, 1))


@pytest.mark.parametrize(
    ("forward", "left"),
    [
        (lambda self, x: x.permute(0, 2, 3, 1).relu(), {"permute": "view", "relu": "pointwise"}),
        (lambda self, x: x[:, 1:].relu(), {"getitem": "getitem", "relu": "pointwise"}),
        (lambda self, x: torch.cat([x, x], 1).relu(), {"cat": "cat", "relu": "pointwise"}),
        (lambda self, x: torch.cumprod(x, 1).relu(), {"cumprod": "cumprod", "relu": "pointwise"}),
        (lambda self, x: x.relu(), {"relu": "pointwise"}),
    ],
)
def test_skips_what_has_no_epilogue(forward, left):
    assert fused(net(forward)) == left


def test_head_is_not_an_epilogue():
    """Only pointwise operators follow; a pooling after a convolution is a node of its own."""
    chains = fused(nn.Sequential(conv(), nn.MaxPool2d(2), nn.ReLU(), conv()).eval())
    assert chains == {"0": "conv2d", "1": "max_pool2d + activation", "3": "conv2d"}


# -- networks of many blocks ------------------------------------------------------------------------------------------


def test_squeeze_excite_residual():
    """Behind a gate the extents are known again, so that the next residual is fused."""

    def forward(self, x):
        y = F.silu(self.expand(x))
        y = y * self.excite(y.mean((2, 3), keepdim=True)).sigmoid()
        return self.project(y) + x

    parts = {"expand": nn.Conv2d(3, 6, 1), "excite": nn.Conv2d(6, 6, 1), "project": nn.Conv2d(6, 3, 1)}
    model = net(lambda self, x: forward(self, self.stem(x)), stem=conv(2), **parts)
    assert fused(model)["project"] == "conv2d + pointwise"


def test_branch_in_channels_last():
    """A block of ConvNeXt: scaled, and added to what it began with, in one go."""

    def forward(self, x):
        y = self.stem(x)
        z = self.down(F.gelu(self.up(self.norm(y.permute(0, 2, 3, 1)))))
        return self.scale * z.permute(0, 3, 1, 2) + y

    parts = {"stem": conv(), "norm": nn.LayerNorm(3), "up": nn.Linear(3, 5), "down": nn.Linear(5, 3)}
    assert fused(net(forward, **parts, scale=nn.Parameter(torch.rand(3, 1, 1)))) == {
        "stem": "conv2d",
        "permute": "view",
        "norm": "layernorm",
        "up": "linear + pointwise",
        "down": "linear",
        "permute#2": "view",
        "mul": "pointwise + pointwise",
    }


def test_feature_pyramid():
    def forward(self, x):
        fine = self.fine(x).relu()
        coarse = self.coarse(fine).relu()
        lateral, top = self.lateral(fine), self.top(coarse)
        return self.out(lateral + F.interpolate(top, size=lateral.shape[-2:])), top

    parts = {"fine": conv(2), "coarse": conv(2), "lateral": nn.Conv2d(3, 3, 1), "top": nn.Conv2d(3, 3, 1)}
    parts["out"] = conv()
    assert fused(net(forward, **parts)) == {
        "fine": "conv2d + pointwise",
        "coarse": "conv2d + pointwise",
        "top": "conv2d",
        "interpolate": "interpolate",
        "lateral": "conv2d + pointwise",
        "out": "conv2d",
    }
