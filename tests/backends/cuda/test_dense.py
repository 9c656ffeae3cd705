"""What computes a product whole; that kernels do is tested in test_parts.py and test_emulated.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deltafx.backends.window import same_pixels
from deltafx.ops import Linear

pytest.importorskip("deltafx._cuda")
from deltafx.backends.cuda import dense
from deltafx.backends.cuda.dense import FEW_PIXELS, MatrixProduct, SmallProduct


@pytest.mark.parametrize("pixels", [1, FEW_PIXELS, FEW_PIXELS + 1])
def test_a_library_multiplies_many_pixels(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5, bias=False), torch.randn(pixels, 6)
    monkeypatch.setattr(dense, "matrix_of", lambda leaf: leaf.value)
    leaf = SimpleNamespace(value=x, dtype=x.dtype)
    by_tap = layer.weight.t().view(1, 1, 6, 5)
    p: Any = SimpleNamespace(weight=by_tap, window=same_pixels(1), x=leaf, whole=Linear.from_module(layer))
    product = dense.product(p, F.pad(x, (0, 2)), allow_tf32=False)
    want = layer(x)
    if pixels <= FEW_PIXELS:
        assert isinstance(product, SmallProduct)
        torch.testing.assert_close(product.x @ product.weight.t(), want)
    else:
        assert isinstance(product, MatrixProduct)
        product(got := torch.empty_like(want))
        torch.testing.assert_close(got, want)
