"""Every operator's samples on the CUDA backend: the values, masks and states of the reference on the same device."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import deltafx
from deltafx.backends import unavailable
from tests.backends.agreement import assert_same_course, in_dtype
from tests.ops.test_operators import SAMPLES, as_model, clip, run

if unavailable("cuda"):
    pytest.skip(f"CUDA backend: {unavailable('cuda')}", allow_module_level=True)

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore:Using padding='same'")]

# PyTorch rounds float32 operands to tf32 too, but not all at the same places.
TF32 = 3e-3
VARIANTS = ["float32", "tf32", "float16", "bfloat16"]


@pytest.fixture(params=VARIANTS)
def variant(request: Any, monkeypatch: Any) -> str:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", request.param == "tf32")
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", request.param == "tf32")
    return request.param


@pytest.mark.parametrize("name", SAMPLES)
def test_agrees_with_the_reference(name: str, variant: str) -> None:
    dtype = torch.float32 if variant == "tf32" else getattr(torch, variant)
    model, frames = in_dtype(as_model(SAMPLES[name]), clip(SAMPLES[name]), dtype)
    model, frames = copy.deepcopy(model).to("cuda"), [tuple(x.to("cuda") for x in frame) for frame in frames]
    try:
        run(model, frames[0])
        run(deltafx.convert(model, backend="reference"), frames[0])
    except (RuntimeError, TypeError, deltafx.FrameError) as error:  # a constant in the function stays float32, or here
        pytest.skip(f"in {dtype}: {error}")
    dm = deltafx.convert(model, backend="cuda", options={"dense_switch": False})
    reference = deltafx.convert(model, backend="reference")
    assert_same_course(dm, reference, frames, share=TF32 if variant == "tf32" else None)
