"""Every operator's samples on the CPU backend: the values, masks and states of the reference, in every variant."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltafx
from deltafx.state import COMPUTED
from tests.ops.test_operators import SAMPLES, as_model, clip, run
from tests.tolerance import TOLERANCE

_cpu = pytest.importorskip("deltafx._cpu")

VARIANTS = [
    *((isa, dtype, 1) for isa in _cpu.instruction_sets for dtype in (torch.float32, torch.bfloat16)),
    (_cpu.instruction_sets[0], torch.float32, 2),
]


def name_of(variant: Any) -> str:
    isa, dtype, threads = variant
    return f"{isa}-{str(dtype).removeprefix('torch.')}-{threads}"


@pytest.fixture(params=VARIANTS, ids=name_of)
def variant(request: Any) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param[2])
    yield request.param
    torch.set_num_threads(before)


def in_dtype(model: nn.Module, frames: list[tuple[Tensor, ...]], dtype: torch.dtype) -> Any:
    if dtype == torch.float32:
        return model, frames
    return copy.deepcopy(model).to(dtype), [tuple(x.to(dtype) for x in frame) for frame in frames]


def leaves(dm: Any) -> list[tuple[str, Any]]:
    states = dm.runtime.plans[0].nodes
    return [(f"{path}[{i}]", leaf) for path, state in states.items() for i, leaf in enumerate(state.leaves)]


def scale_of(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()].double()
    return (finite.square().mean().sqrt().item() if finite.numel() else 0.0) or 1.0


def assert_agree(got: Tensor, want: Tensor, where: str) -> None:
    """Close, and not finite in the same places; whether inf or NaN depends on the order of a sum."""
    if want.is_floating_point():
        got, want = (torch.where(x.isfinite(), x, float("nan")) for x in (got, want))
    tolerance = TOLERANCE.get(want.dtype, 0.0) * scale_of(want)
    torch.testing.assert_close(
        got, want, rtol=TOLERANCE.get(want.dtype, 0.0), atol=tolerance, equal_nan=True, msg=lambda m: f"{where}: {m}"
    )


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", SAMPLES)
def test_agrees_with_the_reference(name: str, variant: Any) -> None:
    isa, dtype, _ = variant
    model, frames = in_dtype(as_model(SAMPLES[name]), clip(SAMPLES[name]), dtype)
    try:
        run(model, frames[0])
        run(deltafx.convert(model, backend="reference"), frames[0])
    except (RuntimeError, TypeError, deltafx.FrameError) as error:  # a constant in the function stays float32
        if dtype == torch.float32:
            raise
        pytest.skip(f"in {dtype}: {error}")
    options = {"isa": isa, "dense_switch": False}
    dm, reference = deltafx.convert(model, backend="cpu", options=options), deltafx.convert(model, backend="reference")
    held: dict[str, Tensor] = {}
    for number, frame in enumerate(frames):
        for a, b in zip(run(dm, frame), run(reference, frame), strict=True):
            assert a.dtype == b.dtype
            assert_agree(a, b, f"frame {number}")
        for (where, ours), (_, theirs) in zip(leaves(dm), leaves(reference), strict=True):
            assert_agree(ours.value, theirs.value, f"frame {number}, {where}")
            assert ours.shares(COMPUTED) == theirs.shares(COMPUTED) or dtype != torch.float32, where
            # Where rounding alone decides whether a pixel changed, the masks may differ.
            differ = (ours.mask != theirs.mask).expand(ours.value.shape)
            if number and bool(differ.any()):
                assert_agree(theirs.value[differ], held[where][differ], f"frame {number}, mask of {where}")
            held[where] = theirs.value.clone()
