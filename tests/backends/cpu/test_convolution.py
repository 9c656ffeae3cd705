"""The convolution kernels, layer by layer: against float64, and the same bits however few pixels are computed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltafx
from deltafx.measure import relative_error
from deltafx.testing import force_masks

_cpu = pytest.importorskip("deltafx._cpu")
from deltafx.backends.cpu import convolution  # noqa: E402
from deltafx.backends.cpu.costs import ending  # noqa: E402
from deltafx.backends.window import same_pixels  # noqa: E402

# Pieces of one tap, of neighbouring taps, of a part of a tap's channels; runs that end within a row of the window.
LAYERS = {
    "stem": (nn.Conv2d(3, 33, 7, stride=2, padding=3), (19, 37)),
    "run_ends_within_a_row": (nn.Conv2d(64, 24, 3, padding=1), (9, 31)),
    "several_passes": (nn.Conv2d(100, 20, 3, padding=1), (7, 19)),
    "several_runs_of_a_tap": (nn.Conv2d(300, 40, 3, padding=1), (5, 17)),
    "pointwise": (nn.Conv2d(16, 100, 1), (9, 33)),
    "pointwise_deep": (nn.Conv2d(520, 16, 1), (5, 16)),
    "pixels_that_share_a_set_of_the_cache": (nn.Conv2d(1024, 140, 1), (4, 17)),
    "pixels_that_share_a_set_with_stride": (nn.Conv2d(512, 136, 3, stride=2, padding=1), (9, 33)),
    "pointwise_stride": (nn.Conv2d(24, 24, 1, stride=2), (9, 33)),
    "dilation": (nn.Conv2d(12, 17, 3, padding=2, dilation=2), (11, 21)),
    "dilation_beyond_the_map": (nn.Conv2d(12, 17, 3, padding=9, dilation=9), (8, 21)),
    "reflect": (nn.Conv2d(8, 9, 3, padding=1, padding_mode="reflect"), (8, 17)),
    "circular": (nn.Conv2d(8, 9, 5, padding=2, padding_mode="circular"), (8, 17)),
    "groups": (nn.Conv2d(24, 48, 3, padding=1, groups=4), (9, 20)),
    "window_of_one_column": (nn.Conv2d(8, 8, (3, 1), padding=(1, 0)), (9, 20)),
    "large_weights": (nn.Conv2d(400, 400, 3, padding=1), (5, 30)),
    "transposed": (nn.ConvTranspose2d(12, 20, 4, stride=2, padding=1), (6, 9)),
    "depthwise": (nn.Conv2d(40, 40, 3, padding=1, groups=40), (9, 33)),
    "depthwise_odd": (nn.Conv2d(7, 7, 3, padding=1, groups=7), (9, 18)),
    "depthwise_stride": (nn.Conv2d(33, 33, 3, stride=2, padding=1, groups=33), (11, 35)),
    "depthwise_five": (nn.Conv2d(16, 16, 5, padding=2, groups=16), (9, 25)),
    "depthwise_five_stride": (nn.Conv2d(20, 20, 5, stride=2, padding=2, groups=20), (13, 31)),
    "depthwise_dilation": (nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16), (11, 25)),
    "depthwise_stride_3": (nn.Conv2d(16, 16, 3, stride=3, padding=1, groups=16), (13, 31)),
}
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 6e-3}
# The dtype, and whether bfloat16 is multiplied in pairs, where the processor can.
WAYS = {"float32": (torch.float32, False), "bfloat16": (torch.bfloat16, False), "pairs": (torch.bfloat16, True)}


def converted(model: nn.Module, isa: str) -> Any:
    return deltafx.convert(model, backend="cpu", options={"isa": isa, "dense_switch": False})


def change(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Other values at single pixels, and in runs of each length that a tile can have."""
    touched = torch.rand(x.shape[0], 1, *x.shape[2:], generator=generator) < share
    y, width = int(torch.randint(x.shape[2], (), generator=generator)), x.shape[3]
    start, end = sorted(torch.randint(width + 1, (2,), generator=generator).tolist())
    touched[:, :, y, start:end] = True
    return torch.where(touched, torch.randn(x.shape, generator=generator).to(x.dtype), x)


@pytest.mark.parametrize("isa", _cpu.instruction_sets)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("way", WAYS)
def test_layers(name: str, way: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, size = LAYERS[name]
    dtype, pairs = WAYS[way]
    if pairs and not _cpu.pairs(isa):
        pytest.skip("there are no products in pairs")
    monkeypatch.setattr(convolution, "pairs_pay", lambda isa: pairs)
    model = nn.Sequential(copy.deepcopy(layer), nn.ReLU()).eval().to(dtype)
    channels = layer.in_channels
    generator = torch.Generator().manual_seed(1)
    dm, fresh = converted(model, isa), converted(model, isa)
    x = torch.randn(2, channels, *size, generator=generator).to(dtype)
    for share in (1.0, 0.0, 0.02, 0.1, 0.5, 1.0):
        x = change(x, share, generator)
        got = dm(x)
        deltafx.reset(fresh)
        assert torch.equal(got, fresh(x)), "it depends on what was computed with it, or before"
        with torch.no_grad():
            want = model.double()(x.double())
        model.to(dtype)
        assert relative_error([got.double()], [want]) < TOLERANCE[dtype]


class Concatenated(nn.Module):
    """Convolutions that read a part of the channels that lie side by side, and write into such a part."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(3, 36, 3, padding=1)
        self.c, self.d = nn.Conv2d(56, 16, 3, padding=1), nn.Conv2d(20, 16, 3, padding=1)
        self.e = nn.Conv2d(36, 36, 3, padding=1, groups=36)

    def forward(self, x: Tensor) -> Any:
        a, b = self.a(x).relu(), self.b(x)
        return self.c(torch.cat([a, b], 1)), self.d(a) + self.d(a.neg()), self.e(b).clamp(0, 6)


@pytest.mark.parametrize("isa", _cpu.instruction_sets)
def test_parts_of_wider_rows(isa: str) -> None:
    torch.manual_seed(0)
    model = Concatenated().eval()
    dm, fresh = converted(model, isa), converted(model, isa)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 15, 29, generator=generator)
    for share in (1.0, 0.01, 0.3, 1.0):
        x = change(x, share, generator)
        got = dm(x)
        deltafx.reset(fresh)
        assert all(torch.equal(a, b) for a, b in zip(got, fresh(x), strict=True))
        with torch.no_grad():
            assert relative_error(list(got), list(model(x))) < 1e-6


@pytest.mark.parametrize("isa", _cpu.instruction_sets)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_pixel_is_updated_where_any_channel_is_not_equal(dtype: torch.dtype, isa: str) -> None:
    """One channel of 35, wherever it is; also where it is not a number, or no longer."""
    model = nn.Conv2d(35, 35, 1, groups=35, bias=False).eval().to(dtype)
    nn.init.ones_(model.weight)
    dm = converted(nn.Sequential(model).eval(), isa)
    x = torch.zeros(1, 35, 3, 5, dtype=dtype)
    dm(x)
    for channel in range(35):
        for value in (1.0, float("nan"), 2.0**-120, -0.0, 0.0):
            x = x.clone()
            x[0, channel, 1, 2] = value
            assert torch.equal(dm(x), x) or value != value
            assert dm(x)[0, channel, 1, 2].isnan() == (value != value)
            assert not dm(x)[:, :channel].isnan().any()


@pytest.mark.parametrize("isa", _cpu.instruction_sets)
def test_what_is_not_updated_stays(isa: str) -> None:
    """A prescribed mask counts, whatever the values are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 21, 3, padding=1), nn.Conv2d(21, 21, 3, padding=1, groups=21)).eval()
    dm = converted(model, isa)
    before = dm(torch.randn(1, 3, 16, 24))
    mask = torch.zeros(1, 16, 24, dtype=torch.uint8)
    mask[:, 4:6, 3:20] = 1
    with force_masks(dm, mask):
        after = dm(torch.randn(1, 3, 16, 24))
    kept = (mask == 0).unsqueeze(1).expand_as(after)
    assert torch.equal(after[kept], before[kept])
    assert (after != before)[~kept].float().mean() > 0.99


def test_weights_in_pairs_are_refused_where_they_cannot_be() -> None:
    """An odd number of channels, frames in float32, and a processor without the instruction."""
    for isa in _cpu.instruction_sets:
        for channels, dtype in ((6, torch.float32), (5, torch.bfloat16), (6, torch.bfloat16)):
            weight = torch.ones(1, 1, channels, 7)
            assert convolution.can_be_pairs(weight, dtype, isa) == (
                _cpu.pairs(isa) and channels == 6 and dtype == torch.bfloat16
            )
        window = same_pixels(4)
        given = ending(window, isa, torch.float32, channels=7)
        packed = convolution.pack(torch.ones(1, 1, 6, 7), isa, pairs=True)
        with pytest.raises(ValueError, match="pairs"):
            torch.ops.deltafx.convolve.default(torch.ones(4, 6), packed, None, 1, *window.arguments, *given)
