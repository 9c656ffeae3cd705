"""What the analysis says is checked against the shapes of frames of several sizes: a wrong guess fails."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from deltafx.ops import SamePadded
from deltafx.passes import fuse_pointwise
from deltafx.passes.extents import Extent, extents
from tests.passes.helpers import assert_follows, batch_norm, before, clip, frame, net, node_at, operators

SIZES = ((9, 11), (16, 16), (13, 8), (32, 7))


class Shapes(fx.Interpreter):
    """The shape of every tensor of a run."""

    def __init__(self, graph_module: fx.GraphModule):
        super().__init__(graph_module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        return result


def known(model: nn.Module) -> tuple[fx.GraphModule, dict[fx.Node, Extent]]:
    """The extents as the fuser sees them, checked: a number is the size, and one name is one size, in every run."""
    graph_module, _ = before(fuse_pointwise, model)
    result = extents(graph_module)
    for size in SIZES:
        run = Shapes(graph_module)
        run.run(frame(2, 3, *size))
        sizes: dict[object, int] = {}
        for node in result.keys() & run.shapes.keys():
            assert len(result[node]) == len(run.shapes[node]), node
            for name, length in zip(result[node], run.shapes[node]):
                assert sizes.setdefault(name, name if isinstance(name, int) else length) == length, (node, name)
    return graph_module, result


def of(model: nn.Module, *paths: str) -> list[Extent | None]:
    graph_module, result = known(model)
    return [result.get(node_at(graph_module, path)) for path in paths]


def two(first: nn.Module, second: nn.Module) -> list[Extent | None]:
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
        (nn.Conv2d(3, 4, (1, 5), stride=(1, 2), padding=(0, 2)), nn.Conv2d(3, 4, 1, stride=(1, 2))),
        (nn.Conv2d(3, 3, 3, stride=2, padding=1), nn.MaxPool2d(3, stride=2, padding=1)),
        (nn.Conv2d(3, 3, 2, stride=2), nn.AvgPool2d(2)),
        (nn.Conv2d(3, 3, 3, stride=2), nn.MaxPool2d(3, stride=2)),
        (nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True)),
        (nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), nn.Conv2d(3, 3, 1)),
        (nn.AdaptiveAvgPool2d((2, 3)), nn.AdaptiveMaxPool2d((2, 3))),
        (nn.AdaptiveAvgPool2d((None, 2)), nn.AdaptiveMaxPool2d((None, 2))),
        (nn.AdaptiveAvgPool2d(2), nn.Upsample(size=(2, 2))),
        (nn.AdaptiveAvgPool2d(2), nn.Upsample(size=2)),
        (nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=(2, 2), mode="bilinear")),
        (nn.GroupNorm(1, 3), nn.Conv2d(3, 3, 1)),
        (nn.Softmax(1), nn.Sigmoid()),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)), nn.Conv2d(3, 4, 3)),
    ],
)
def test_equal(first, second):
    a, b = two(first, second)
    assert a is not None
    assert a == b


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)),
        (nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)),
        (nn.MaxPool2d(2), nn.MaxPool2d(2, ceil_mode=True)),
        (nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d((2, 3))),
        (nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2.5)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), nn.Conv2d(3, 4, 5)),  # equal, but not by name
        (nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.GLU(3)), nn.AdaptiveAvgPool2d(4)),
    ],
)
def test_not_equal(first, second):
    a, b = two(first, second)
    assert a is None or a != b


def test_one_pixel_stays_one():
    squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    (extent,) = of(net(lambda self, x: self.squeeze(x), squeeze=squeeze), "squeeze.3")
    assert extent is not None
    assert extent[1:] == (3, 1, 1)


def test_numbers_are_computed():
    model = nn.Sequential(nn.AdaptiveAvgPool2d((7, 9)), nn.Conv2d(3, 4, 3, stride=2), nn.MaxPool2d(2, 1)).eval()
    (extent,) = of(model, "2")
    assert extent is not None
    assert extent[1:] == (4, 2, 3)


@pytest.mark.parametrize(
    ("reduce", "kept"),
    [
        (lambda y: y.mean((-1, -2), keepdim=True), (4, 1, 1)),
        (lambda y: y.mean((2, 3)), (4,)),
        (lambda y: torch.amax(y, 1), ("h", "w")),
        (lambda y: y.sum(2, keepdim=True), (4, 1, "w")),
    ],
)
def test_reductions(reduce, kept):
    model = net(lambda self, x: reduce(self.conv(x)).relu(), conv=nn.Conv2d(3, 4, 3))
    reduced, conv = of(model, "relu", "conv")
    assert conv is not None
    names = {"h": conv[2], "w": conv[3]}
    assert reduced == (conv[0], *(names.get(size, size) for size in kept))


def test_channels_last():
    """A block of ConvNeXt: there and back again."""

    def forward(self, x):
        y = self.conv(x)
        z = self.down(F.gelu(self.up(self.norm(y.permute(0, 2, 3, 1)))))
        return y + self.scale * z.transpose(-1, -2).transpose(1, 2)

    parts = {"conv": nn.Conv2d(3, 4, 3), "norm": nn.LayerNorm(4), "up": nn.Linear(4, 9), "down": nn.Linear(9, 4)}
    model = net(forward, **parts, scale=nn.Parameter(torch.rand(4, 1, 1)))
    conv, up, mul, add = of(model, "conv", "up", "mul", "add")
    assert conv is not None
    assert up == (conv[0], conv[2], conv[3], 9)
    assert mul == add == conv


def test_gate_gives_way():
    def forward(self, x):
        y = self.conv(x)
        return y * self.excite(F.adaptive_avg_pool2d(y, 1))

    model = net(forward, conv=nn.Conv2d(3, 4, 3), excite=nn.Conv2d(4, 4, 1))
    product, conv = of(model, "mul", "conv")
    assert product == conv is not None


def test_product_of_unlike_channels_is_unknown():
    model = net(lambda self, x: self.a(x)[:, :1] * self.b(x), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1))
    assert of(model, "mul") == [None]


@pytest.mark.parametrize(
    ("shape", "grid"), [((1,), (1, 1)), ((4, 1, 1), (1, 1)), ((7, 9), (7, 9)), ((1, 4, 7, 1), (7, 1))]
)
def test_constants(shape, grid):
    """A constant with a grid enlarges a single pixel to it."""
    squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.ReLU())
    (extent,) = of(net(lambda self, x: self.squeeze(x) * self.map, squeeze=squeeze, map=torch.rand(shape)), "mul")
    assert extent is not None
    assert extent[1:] == (4, *grid)


def test_constant_of_a_size_that_the_frame_need_not_have():
    model = net(
        lambda self, x: self.conv(x[..., :7, :7]).relu() * self.map, conv=nn.Conv2d(3, 4, 1), map=torch.rand(7, 7)
    )
    assert of(model, "mul") == [None]


def test_conversion_takes_no_shape():
    model = net(lambda self, x: self.squeeze(x).type_as(x), squeeze=nn.AdaptiveAvgPool2d(1))
    a, b = of(model, "type_as", "squeeze")
    assert a == b is not None


def test_concatenation_of_channels():
    def forward(self, x):
        x = self.stem(x)
        return torch.cat([self.a(x), self.pool(x), self.b(x)], 1), torch.cat([x, x], 1)

    parts = {"a": nn.Conv2d(3, 4, 1), "pool": nn.MaxPool2d(3, 1, 1), "b": nn.Conv2d(3, 2, 3, padding=1)}
    cat, again, b = of(net(forward, stem=nn.Conv2d(3, 3, 3, stride=2), **parts), "cat", "cat#2", "b")
    assert b is not None
    assert cat == (b[0], 9, *b[2:])
    assert again == (b[0], 6, *b[2:])


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: torch.cat([a, b[:, :, 1:]], 2),
        lambda a, b: torch.cat([a, torch.zeros_like(a)], 1),
        lambda a, b: torch.stack([a, b], 1),
    ],
)
def test_other_concatenations_are_unknown(join):
    model = net(lambda self, x: join(self.a(x), self.b(x)).relu(), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1))
    assert of(model, "relu") == [None]


@pytest.mark.parametrize("dim", [0, 2, -1])
def test_concatenation_along_other_dimensions(dim):
    model = net(lambda self, x: torch.cat([self.a(x), self.b(x)], dim), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1))
    cat, a = of(model, "cat", "a")
    assert cat is not None
    assert [d for d, (size, old) in enumerate(zip(cat, a)) if size != old] == [dim % 4]


def levels(size) -> nn.Module:
    """A coarse level brought to a size that the fine level, y, gives."""

    def forward(self, x):
        y = self.fine(x)
        return F.interpolate(self.coarse(y), size=size(y), mode="bilinear"), y * 2

    return net(forward, fine=nn.Conv2d(3, 4, 3, stride=2), coarse=nn.Conv2d(4, 5, 3, stride=2, padding=1))


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
    up, fine = of(levels(size), "interpolate", "fine")
    assert fine is not None
    assert up == (fine[0], 5, *fine[2:])


def test_interpolation_to_mixed_sizes():
    up, fine = of(levels(lambda y: (y.shape[3], 5)), "interpolate", "fine")
    assert fine is not None
    assert up == (fine[0], 5, fine[3], 5)


@pytest.mark.parametrize(
    "size", [lambda y: (y.shape[2] + 1, y.shape[3] + 1), lambda y: [s * 2 for s in (y.shape[2], 3)]]
)
def test_interpolation_to_a_computed_size_is_unknown(size):
    assert of(levels(size), "interpolate") == [None]


def test_pooling_whose_window_is_computed_is_unknown():
    model = net(lambda self, x: F.avg_pool2d(self.conv(x), x.size()[2:]).relu(), conv=nn.Conv2d(3, 4, 1))
    assert of(model, "relu") == [None]


def test_padding_by_the_size_of_the_frame():
    conv, *_ = (sample.module for sample in SamePadded.samples())  # 3x3 with stride 2
    a, b = two(nn.Sequential(nn.Conv2d(3, 7, 1), conv), nn.Conv2d(3, 5, 1, stride=2))
    assert a == b is not None


def test_two_frames_differ():
    model = net(lambda self, x, y: (self.conv(x), self.conv(y)), conv=nn.Conv2d(3, 4, 1))
    graph_module, _ = before(fuse_pointwise, model)
    result = extents(graph_module)
    assert result[node_at(graph_module, "conv")] != result[node_at(graph_module, "conv#2")]


def test_other_operators_are_unknown():
    def forward(self, x):
        y = self.conv(x)
        return self.up(y), self.shuffle(y), F.pad(y, (1, 1)), y[:, 1:], F.glu(y, 1), y.sort(1)[0], y.flatten(1)

    model = net(forward, conv=nn.Conv2d(3, 4, 1), up=nn.ConvTranspose2d(4, 4, 2), shuffle=nn.PixelShuffle(2))
    graph_module, result = known(model)
    assert [path for path in operators(graph_module) if node_at(graph_module, path) in result] == ["conv"]


def test_convolution_of_a_tensor_without_streams():
    """The rank is not what the convolution asks for; nothing breaks, and the operator runs dense."""

    def forward(self, x):
        y = self.conv(x.flatten(0, 1))
        return y.permute(2, 0, 1) + self.norm(y.permute(2, 0, 1))

    assert_follows(net(forward, conv=nn.Conv2d(6, 4, 1), norm=nn.LayerNorm(9)), clip())


def test_channels_of_every_node():
    parts = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), batch_norm(4), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Upsample(5)
    model = nn.Sequential(*parts).eval()
    assert {extent and extent[1] for extent in of(model, *operators(known(model)[0]))} == {4}
