"""A network of integers runs, densely; its tensors keep their scale and zero point."""

import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.ao.nn.quantized import FloatFunctional

import deltafx

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.ao says where it will move to


class Net(nn.Module):
    """Branches with scales of their own, joined by addition and by concatenation."""

    def __init__(self):
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.first, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(16, 5)
        self.add, self.cat = FloatFunctional(), FloatFunctional()

    def forward(self, x):
        x = self.pool(self.first(self.quant(x)))
        x = self.cat.cat([self.add.add(self.left(x), x), self.right(x)], 1)
        return self.dequant(self.head(x.mean((2, 3))))


def quantized(net):
    torch.manual_seed(0)
    net.eval().qconfig = quantization.default_qconfig
    quantization.prepare(net, inplace=True)
    net(torch.randn(4, 3, 18, 22))
    return quantization.convert(net, inplace=True).eval()


def frames(streams=2):
    torch.manual_seed(1)
    x = torch.randn(streams, 3, 18, 22)
    for _ in range(4):
        yield x.clone()
        x[-1, :, 4:8, 5:9] = torch.randn(3, 4, 4)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_frame_is_the_dense_networks(backend):
    net = quantized(Net())
    dm = deltafx.convert(net, backend=backend)
    for frame in frames():
        assert torch.equal(dm(frame), net(frame))
    totals = deltafx.report(dm).totals
    assert totals["macs_delta_form"] == 0
    assert totals["macs_dense"] == 2 * (16 * 20 * 8 * 27 + 8 * 10 * 8 * (8 + 72) + 16 * 5)


@torch.no_grad()
def test_joins_tensors_of_different_scales():
    class Join(nn.Module):
        def forward(self, x):
            small = torch.quantize_per_tensor(x, 0.01, 128, torch.quint8)
            large = torch.quantize_per_tensor(x, 0.05, 100, torch.quint8)
            return torch.cat([small, large], 1).dequantize()

    net = Join().eval()
    dm = deltafx.convert(net)
    for frame in frames():
        assert torch.equal(dm(frame), net(frame))


@torch.no_grad()
def test_a_scale_that_changes_is_refused():
    class Dynamic(nn.Module):
        def forward(self, x):
            return torch.quantize_per_tensor_dynamic(x, torch.quint8, False).dequantize()

    dm = deltafx.convert(Dynamic().eval())
    dm(torch.randn(1, 3, 8, 8))
    with pytest.raises(deltafx.FrameError, match=r"scale [\d.]+ and zero point \d+ in this frame and was"):
        dm(2 * torch.randn(1, 3, 8, 8))
