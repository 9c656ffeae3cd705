import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deltafx import ops
from deltafx.passes import fold_affine
from tests.passes.helpers import apply, assert_follows, batch_norm, before, clip, frame, module_at, net, operators


def folded(model: nn.Module, *inputs: torch.Tensor) -> tuple[dict[str, str], int]:
    """The operators that are left, and the number of rewrites, of which the removal of a constant is one."""
    graph_module, count = apply(fold_affine, model, *(inputs or (frame(),)))
    return operators(graph_module), count


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(3, 6, 3, bias=False),
        nn.Conv2d(3, 6, 3, stride=2, padding=2, dilation=2),
        nn.Conv2d(3, 6, 3, padding=1, groups=3),
        nn.Conv2d(3, 6, 3, padding="same", padding_mode="reflect"),
        nn.ConvTranspose2d(3, 6, 3, stride=2, output_padding=1),
        nn.ConvTranspose2d(3, 6, 2, bias=False),
    ],
    ids=str,
)
def test_batch_norm_after_convolution(convolution):
    graph_module, count = apply(fold_affine, nn.Sequential(convolution, batch_norm(6), nn.ReLU()).eval(), frame())
    assert list(operators(graph_module)) == ["0", "2"]
    (node,) = [node for node in graph_module.graph.nodes if node.meta["path"] == "0"]
    assert node.meta["fused_from"] == ("0", "1")
    assert count == 1


@pytest.mark.parametrize(("kind", "shape"), [(1, (2, 3, 9)), (3, (2, 3, 4, 5, 6))])
def test_other_ranks(kind, shape):
    convolution, norm = getattr(nn, f"Conv{kind}d"), getattr(nn, f"BatchNorm{kind}d")
    assert len(folded(nn.Sequential(convolution(3, 4, 3), norm(4)).eval(), frame(*shape))[0]) == 1


def test_skips_grouped_transposed_convolution():
    left, count = folded(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), batch_norm(6)).eval(), frame(2, 4, 5, 5))
    assert left == {"0": "conv_transpose2d", "1": "affine"}
    assert count == 0


@pytest.mark.parametrize(
    ("forward", "removed"),
    [
        (lambda self, x: self.conv(x) * 2, 1),
        (lambda self, x: 0.5 * self.conv(x), 1),
        (lambda self, x: self.conv(x) / 3, 1),
        (lambda self, x: self.conv(x) + 1, 1),
        (lambda self, x: 1 + self.conv(x), 1),
        (lambda self, x: self.conv(x) - 1, 1),
        (lambda self, x: torch.mul(self.conv(x), self.scale), 2),
        (lambda self, x: self.scale * self.conv(x), 2),
        (lambda self, x: self.conv(x).sub(self.scale), 2),
        (lambda self, x: self.conv(x).div(self.scale), 2),
        (lambda self, x: self.conv(x) + self.scale[None], 2),
        (lambda self, x: self.conv(x) * self.number, 2),
        (lambda self, x: (self.conv(x) * self.scale + self.scale - 1) * 3, 6),
    ],
)
def test_arithmetic_with_constants(forward, removed):
    parts = {"scale": torch.rand(4, 1, 1) + 0.5, "number": nn.Parameter(torch.tensor(3.0))}
    left, count = folded(net(forward, conv=nn.Conv2d(3, 4, 3), **parts))
    assert left == {"conv": "conv2d"}
    assert count == removed


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: 1 - self.conv(x),
        lambda self, x: 1 / self.conv(x),
        lambda self, x: self.conv(x) * self.spatial,
        lambda self, x: self.conv(x) + self.row,
        lambda self, x: self.conv(x) * self.streams,
        lambda self, x: self.conv(x) + self.deeper,
        lambda self, x: self.conv(x) * self.precise,
        lambda self, x: torch.add(self.conv(x), self.scale, alpha=2),
        lambda self, x: torch.div(self.conv(x), 3, rounding_mode="floor"),
        lambda self, x: self.conv(x) ** 2,
        lambda self, x: self.conv(x) * x.shape[1],
        lambda self, x: self.conv(x) * x.mean(),
        lambda self, x: [y := self.conv(x), y * y][-1],
    ],
)
def test_skips_arithmetic(forward):
    parts = {
        "scale": torch.rand(4, 1, 1), "spatial": torch.rand(1, 1, 7, 9), "row": torch.rand(9),
        "streams": torch.rand(2, 1, 1, 1), "deeper": torch.rand(1, 2, 4, 1, 1), "precise": torch.rand(4, 1, 1).double(),
    }  # fmt: skip
    left, count = folded(net(forward, conv=nn.Conv2d(3, 4, 3), **parts))
    assert len(left) > 1
    assert count == 0


def test_skips_convolution_with_another_reader():
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y

    left, count = folded(net(forward, conv=nn.Conv2d(3, 4, 3), norm=batch_norm(4)))
    assert left == {"conv": "conv2d", "norm": "affine", "add": "pointwise"}
    assert count == 0


def test_shared_convolution_is_folded_at_each_call():
    """A head that all levels share, with a batch norm for each level: every call site has weights of its own."""

    def forward(self, x):
        return self.norm1(self.conv(x)), self.norm2(self.conv(x * 2)), self.conv(x * 3)

    conv = nn.Conv2d(3, 4, 3)
    weight = conv.weight.detach().clone()
    left, count = folded(net(forward, conv=conv, norm1=batch_norm(4), norm2=batch_norm(4)))
    assert [path for path in left if path.startswith("conv")] == ["conv", "conv#2", "conv#3"]
    assert count == 2
    assert torch.equal(conv.weight, weight)


# -- before the convolution -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, 3, bias=False, groups=2, stride=2),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"),
        nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"),
    ],
    ids=str,
)
def test_batch_norm_before_convolution(convolution):
    graph_module, count = apply(fold_affine, nn.Sequential(batch_norm(4), convolution).eval(), frame(2, 4, 9, 11))
    (node,) = [node for node in graph_module.graph.nodes if node.meta["path"] == "1"]
    assert operators(graph_module) == {"1": "conv2d"}
    assert node.meta["fused_from"] == ("0", "1")
    assert count == 1


def test_skips_padding_with_zeros():
    """The padding would be shifted with the rest."""
    left, count = folded(nn.Sequential(batch_norm(3), nn.Conv2d(3, 4, 3, padding=1)).eval())
    assert left == {"0": "affine", "1": "conv2d"}
    assert count == 0


def test_padding_with_zeros_and_no_shift():
    norm = batch_norm(3)
    norm.running_mean.zero_()
    norm.bias.data.zero_()
    left, _ = folded(nn.Sequential(norm, nn.Conv2d(3, 4, 3, padding=1)).eval())
    assert left == {"1": "conv2d"}


def test_skips_batch_norm_with_another_reader():
    def forward(self, x):
        y = self.norm(x)
        return self.conv(y), y

    assert folded(net(forward, norm=batch_norm(3), conv=nn.Conv2d(3, 4, 1)))[1] == 0


def test_on_both_sides():
    model = nn.Sequential(batch_norm(3), nn.Conv2d(3, 4, 3), batch_norm(4), nn.Conv2d(4, 2, 1)).eval()
    left, count = folded(model)
    assert left == {"1": "conv2d", "3": "conv2d"}
    assert count == 2


def test_skips_what_is_no_convolution():
    model = nn.Sequential(nn.MaxPool2d(2), batch_norm(3), nn.ReLU()).eval()
    assert folded(model) == ({"0": "max_pool2d", "1": "affine", "2": "activation"}, 0)
    assert_follows(model, clip())


# -- rounding ---------------------------------------------------------------------------------------------------------


def test_rounds_once():
    """Weights are those of a fold in float64, rounded, however many scales and shifts follow each other."""
    conv, norm = nn.Conv2d(3, 4, 3), batch_norm(4)
    parts = {"conv": conv, "norm": norm, "scale": torch.rand(4, 1, 1)}
    model = net(lambda self, x: self.norm(self.conv(x)) * self.scale + 0.1, **parts)
    graph_module, _ = apply(fold_affine, model, frame())
    op = module_at(graph_module, "conv")
    assert isinstance(op, ops.Conv)

    exact = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * exact
    scale = model.scale.double().flatten()
    weight = conv.weight.double() * (exact * scale).view(-1, 1, 1, 1)
    bias = (conv.bias.double() * exact + shift) * scale + 0.1
    torch.testing.assert_close(op.weight, weight.float(), rtol=1.2e-7, atol=0)
    torch.testing.assert_close(op.bias, bias.float(), rtol=1.2e-7, atol=0)


def test_half_precision_folds_in_float64():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), batch_norm(4)).eval()
    want = fold(model)
    got = fold(model.half())
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), want, rtol=2e-3, atol=1e-3)


def fold(model: nn.Module) -> torch.Tensor:
    graph_module, context = before(fold_affine, model)
    fold_affine(graph_module, context)
    return module_at(graph_module, "0").weight


def test_functional_spelling():
    model = net(
        lambda self, x: F.batch_norm(F.conv2d(x, self.weight), self.mean, self.var),
        weight=torch.randn(4, 3, 3, 3), mean=torch.randn(4), var=torch.rand(4) + 0.5,
    )  # fmt: skip
    assert folded(model) == ({"conv2d": "conv2d"}, 1)
