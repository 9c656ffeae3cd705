"""The input gate on a GPU passes the pixels that it passes in the reference, to the last one."""

from __future__ import annotations

import pytest
import torch

import deltafx
from deltafx.backends import unavailable
from tests.test_gate import GATES, IDENTITY, assert_same_pixels, moving

if unavailable("cuda"):
    pytest.skip(f"CUDA backend: {unavailable('cuda')}", allow_module_level=True)

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("raw", [False, True])
def test_it_passes_the_same_pixels(gate: deltafx.InputGate, raw: bool) -> None:
    preprocess = deltafx.Preprocess(mean=(0.45,) * 3, std=(0.225,) * 3) if raw else None
    dms = [
        deltafx.convert(IDENTITY, backend=name, input_gate=gate, preprocess=preprocess).cuda()
        for name in ("reference", "cuda")
    ]
    assert_same_pixels(dms, [x.cuda() for x in moving(raw)])


def test_a_bad_pixel_that_stands_alone_is_gone_after_the_next_good_frame() -> None:
    dm = deltafx.convert(IDENTITY, backend="cuda", input_gate=deltafx.InputGate(8, neighbours=2))
    good = moving(raw=False)[0].cuda()
    bad = good.clone()
    bad[..., 8, 8] = float("nan")
    dm(good)
    assert not dm(bad).isfinite().all()
    torch.testing.assert_close(dm(good), good)
