"""Whether a compiled backend agrees with the reference: values, masks and states."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from deltafx.measure import relative_error
from deltafx.state import COMPUTED
from tests.ops.test_operators import run
from tests.tolerance import TOLERANCE


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


def assert_as_exact(dm: Any, model: nn.Module, frames: Iterable[Tensor], least: float = 1e-6) -> None:
    """At most three times as far from the network in float64 as the dense one, plus `least`; NaN in the same places."""
    exact = copy.deepcopy(model).double()
    for number, frame in enumerate(frames):
        got, want, dense = dm(frame), exact(frame.double()), model(frame)
        if want.isnan().any():
            assert torch.equal(got.isnan(), want.isnan()), f"frame {number}"
            got, want, dense = (torch.nan_to_num(each) for each in (got, want, dense))
        assert relative_error([got], [want]) <= 3 * relative_error([dense], [want]) + least, f"frame {number}"


def assert_agree(got: Tensor, want: Tensor, where: str, share: float | None = None) -> None:
    """Close, and not finite in the same places; whether inf or NaN depends on the order of a sum.

    `share` is a looser tolerance than the dtype's.
    """
    if want.is_floating_point():
        got, want = (torch.where(x.isfinite(), x, float("nan")) for x in (got, want))
    share = TOLERANCE.get(want.dtype, 0.0) if share is None or not want.is_floating_point() else share
    torch.testing.assert_close(
        got, want, rtol=share, atol=share * scale_of(want), equal_nan=True, msg=lambda m: f"{where}: {m}"
    )


def assert_same_course(dm: Any, reference: Any, frames: list[tuple[Tensor, ...]], share: float | None = None) -> None:
    """Both run the frames: their outputs, values, masks and counts of computed pixels agree after each."""
    held: dict[str, Tensor] = {}
    for number, frame in enumerate(frames):
        for a, b in zip(run(dm, frame), run(reference, frame), strict=True):
            assert a.dtype == b.dtype
            assert_agree(a, b, f"frame {number}", share)
        for (where, ours), (_, theirs) in zip(leaves(dm), leaves(reference), strict=True):
            assert_agree(ours.value, theirs.value, f"frame {number}, {where}", share)
            exact = theirs.dtype == torch.float32 and share is None
            assert ours.shares(COMPUTED) == theirs.shares(COMPUTED) or not exact, where
            # Where rounding alone decides whether a pixel changed, the masks may differ.
            differ = (ours.mask != theirs.mask).expand(ours.value.shape)
            if number and bool(differ.any()):
                assert_agree(theirs.value[differ], held[where][differ], f"frame {number}, mask of {where}", share)
            held[where] = theirs.value.clone()
