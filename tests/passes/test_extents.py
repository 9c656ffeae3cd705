"""What the analysis says is checked against the shapes of frames of several sizes: a wrong guess fails."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from deltafx.node import DeltaNode
from deltafx.ops import SamePadded
from deltafx.passes import fuse_pointwise
from deltafx.passes.context import leaf_module
from deltafx.passes.extents import ONE, Extent, extents
from tests.passes.helpers import batch_norm, before, frame, net, node_at, operators

SIZES = ((9, 11), (16, 16), (13, 8), (32, 7))


class Shapes(fx.Interpreter):
    """The shape of every tensor of a run."""

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        self.shapes[n] = result.shape if isinstance(result, Tensor) else None
        return result


def known(model: nn.Module, channels: int = 3) -> tuple[fx.GraphModule, dict[fx.Node, Extent]]:
    """The extents as the fuser sees them, after a check that equal ones are equal for every size of the frame."""
    graph_module, _ = before(fuse_pointwise, model)
    result = extents(graph_module)
    for size in SIZES:
        run = Shapes(graph_module)
        run.shapes = {}
        run.run(frame(2, channels, *size))
        shapes = {node: shape for node, shape in run.shapes.items() if node in result and shape is not None}
        for node, shape in shapes.items():
            extent = result[node]
            assert not isinstance(extent.channels, int) or extent.channels == shape[1], node
            assert extent.rank in (None, len(shape)), node
            assert extent.grid != ONE or set(shape[2:]) == {1}, node
        for a, b in itertools.combinations(shapes, 2):
            if result[a].grid is not None and result[a].grid == result[b].grid:
                assert shapes[a][2:] == shapes[b][2:], (a, b)
    return graph_module, result


def of(model: nn.Module, *paths: str, channels: int = 3) -> list[Extent]:
    graph_module, result = known(model, channels)
    return [result[node_at(graph_module, path)] for path in paths]


def two(first: nn.Module, second: nn.Module) -> list[Extent]:
    """The extents of what two modules make of the same tensor."""

    def forward(self, x):
        x = self.stem(x)
        return self.first(x).relu(), self.second(x).relu()

    return of(net(forward, stem=nn.Conv2d(3, 3, 1), first=first, second=second), "relu", "relu#2")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(3, 4, 1, stride=2)),
        (nn.Conv2d(3, 4, 5, stride=2, padding=2), nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        (nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.Conv2d(3, 4, 1)),
        (nn.Conv2d(3, 4, 4, padding="same"), nn.Conv2d(3, 4, 1)),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.MaxPool2d(3, stride=2, padding=1)),
        (nn.Conv2d(3, 4, 2, stride=2), nn.AvgPool2d(2)),
        (nn.Conv2d(3, 4, 3, stride=2), nn.MaxPool2d(3, stride=2)),
        (nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True)),
        (nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), nn.Conv2d(3, 4, 1)),
        (nn.AdaptiveAvgPool2d((2, 3)), nn.AdaptiveMaxPool2d((2, 3))),
        (nn.AdaptiveAvgPool2d(2), nn.Upsample(size=(2, 2))),
        (nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=(2, 2), mode="bilinear")),
        (nn.GroupNorm(1, 3), nn.Conv2d(3, 4, 1)),
    ],
)
def test_equal_grids(first, second):
    a, b = two(first, second)
    assert a.grid is not None
    assert a.grid == b.grid


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)),
        (nn.MaxPool2d(2), nn.MaxPool2d(2, ceil_mode=True)),
        (nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d((2, 3))),
        (nn.AdaptiveAvgPool2d((None, 2)), nn.AdaptiveAvgPool2d((None, 2))),
        (nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2.5)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), nn.Conv2d(3, 4, 5)),
    ],
)
def test_different_or_unknown_grids(first, second):
    model = net(lambda self, x: (self.a(x).relu(), self.b(x).relu()), a=first, b=second)
    a, b = of(model, "relu", "relu#2")
    assert a.grid is None or a.grid != b.grid


def test_channels():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), batch_norm(4), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)).eval()
    paths = [node.meta["path"] for node in known(model)[0].graph.nodes if isinstance(leaf(model, node), DeltaNode)]
    assert [extent.channels for extent in of(model, *paths)] == [4] * len(paths)


def leaf(model: nn.Module, node: fx.Node) -> nn.Module | None:
    return leaf_module(known(model)[0], node) if node.op == "call_module" else None


def test_one_pixel_stays_one():
    squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    (extent,) = of(net(lambda self, x: self.squeeze(x), squeeze=squeeze), "squeeze.3")
    assert extent == Extent(3, ONE, 4)


def test_mean_over_pixels_is_one_pixel():
    model = net(lambda self, x: self.conv(x).mean((-1, -2), keepdim=True), conv=nn.Conv2d(3, 4, 3))
    assert of(model, "mean") == [Extent(4, ONE, 4)]


@pytest.mark.parametrize(
    "reduce", [lambda y: y.mean((2, 3)), lambda y: y.mean(2, keepdim=True), lambda y: y.sum((1, 2, 3), keepdim=True)]
)
def test_other_reductions_are_unknown(reduce):
    graph_module, result = known(net(lambda self, x: reduce(self.conv(x)), conv=nn.Conv2d(3, 4, 3)))
    (path,) = [path for path in operators(graph_module) if path != "conv"]
    assert not result[node_at(graph_module, path)].known


def test_gate_gives_way():
    def forward(self, x):
        y = self.conv(x)
        return y * self.excite(F.adaptive_avg_pool2d(y, 1))

    model = net(forward, conv=nn.Conv2d(3, 4, 3), excite=nn.Conv2d(4, 4, 1))
    product, conv = of(model, "mul", "conv")
    assert product == conv


def test_product_of_unlike_channels_is_unknown():
    model = net(lambda self, x: self.a(x)[:, :1] * self.b(x), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1))
    assert not of(model, "mul")[0].known


@pytest.mark.parametrize(("shape", "stays"), [((1,), True), ((4, 1, 1), True), ((7, 9), False), ((1, 4, 7, 9), False)])
def test_constants(shape, stays):
    """A constant with a grid may enlarge a single pixel to it."""
    squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.ReLU())
    model = net(lambda self, x: self.squeeze(x) * self.map, squeeze=squeeze, map=torch.rand(shape))
    assert of(model, "mul")[0].known is stays


def test_concatenation_of_channels():
    def forward(self, x):
        return torch.cat([self.a(x), self.pool(x), self.b(x)], 1), torch.cat([x, x], 1)

    parts = {"a": nn.Conv2d(3, 4, 1), "pool": nn.MaxPool2d(3, 1, 1), "b": nn.Conv2d(3, 2, 3, padding=1)}
    stem = nn.Conv2d(3, 3, 3, stride=2)
    cat, b = of(net(lambda self, x: forward(self, self.stem(x)), stem=stem, **parts), "cat", "b")
    assert cat == Extent(9, b.grid, 4)


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: torch.cat([a, b[:, :, 1:]], 2),
        lambda a, b: torch.cat([a, a], 2),
        lambda a, b: torch.cat([a, a], 0),
        lambda a, b: torch.cat([a, torch.zeros_like(a)], 1),
        lambda a, b: torch.stack([a, b], 1),
    ],
)
def test_other_concatenations_are_unknown(join):
    model = net(lambda self, x: join(self.a(x), self.b(x)) * 1, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1))
    assert not of(model, "mul")[0].known


@pytest.mark.parametrize(
    "size",
    [
        lambda y: y.shape[-2:],
        lambda y: y.shape[2:],
        lambda y: y.size()[-2:],
        lambda y: (y.shape[2], y.shape[3]),
        lambda y: (y.size(2), y.size(-1)),
        lambda y: [y.shape[-2], y.shape[3]],
    ],
)
def test_interpolation_to_the_size_of_another(size):
    def forward(self, x):
        y = self.fine(x)
        return F.interpolate(self.coarse(y), size=size(y), mode="bilinear"), y * 2

    model = net(forward, fine=nn.Conv2d(3, 4, 3, stride=2), coarse=nn.Conv2d(4, 5, 3, stride=2))
    up, fine = of(model, "interpolate", "fine")
    assert up == Extent(5, fine.grid, 4)


@pytest.mark.parametrize(
    "size",
    [
        lambda y: y.shape[1:3],
        lambda y: (y.shape[3], y.shape[2]),
        lambda y: (y.shape[2], y.shape[2]),
        lambda y: (y.shape[2], 5),
        lambda y: (y.shape[2] + 1, y.shape[3] + 1),
        lambda y: y.shape[-1],
    ],
)
def test_interpolation_to_another_size_is_unknown(size):
    def forward(self, x):
        y = self.fine(x)
        return F.interpolate(self.coarse(y), size=size(y)), y

    model = net(forward, fine=nn.Conv2d(3, 4, 3, stride=2), coarse=nn.Conv2d(4, 5, 3, stride=2))
    assert of(model, "interpolate")[0].grid is None


def test_pooling_whose_window_is_computed():
    model = net(lambda self, x: F.avg_pool2d(self.conv(x), x.size()[2:]) * 1, conv=nn.Conv2d(3, 4, 1))
    assert of(model, "mul") == [Extent(4, None, 4)]


def test_padding_by_the_size_of_the_frame():
    conv, *_ = (sample.module for sample in SamePadded.samples())  # 3x3 with stride 2
    a, b = two(nn.Sequential(nn.Conv2d(3, 7, 1), conv), nn.Conv2d(3, 5, 1, stride=2))
    assert a.grid is not None
    assert a == b


def test_two_frames_differ():
    model = net(lambda self, x, y: (self.conv(x), self.conv(y)), conv=nn.Conv2d(3, 4, 1))
    graph_module, _ = before(fuse_pointwise, model)
    result = extents(graph_module)
    assert result[node_at(graph_module, "conv")].grid != result[node_at(graph_module, "conv#2")].grid


def test_other_operators_are_unknown():
    def forward(self, x):
        y = self.conv(x)
        turned = y.permute(0, 1, 3, 2)
        moved = F.pad(y, (1, 1)), y[:, 1:], turned, F.glu(y, 1)
        return self.up(y), self.shuffle(y), self.linear(y), moved, y.sort(1)[0]

    parts = {"up": nn.ConvTranspose2d(4, 4, 2), "shuffle": nn.PixelShuffle(2), "linear": nn.LazyLinear(3)}
    model = net(lambda self, x: forward(self, x[..., :7]), conv=nn.Conv2d(3, 4, 1), **parts)
    with torch.no_grad():
        model(frame())
    graph_module, result = known(model)
    for path in operators(graph_module):
        assert path == "conv" or not result[node_at(graph_module, path)].known, path
