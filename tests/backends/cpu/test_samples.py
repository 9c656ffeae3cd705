"""Every operator's samples on the CPU backend: the values, masks and states of the reference, in every variant."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import deltafx
from deltafx.backends.families import COMPILED
from deltafx.ops import OPERATORS
from tests.backends.agreement import assert_same_course, in_dtype
from tests.ops.test_operators import SAMPLES, as_model, clip, run

_cpu = pytest.importorskip("deltafx._cpu")

DEFAULT = [(_cpu.instruction_sets[0], dtype, 1) for dtype in (torch.float32, torch.bfloat16)]
VARIANTS = [
    *((isa, dtype, 1) for isa in _cpu.instruction_sets for dtype in (torch.float32, torch.bfloat16)),
    (_cpu.instruction_sets[0], torch.float32, 2),
]
# What has no compiled kernel is run by the same reference kernel whatever the instruction set.
COMPILED_OPERATORS = [operator.__name__ for operator in OPERATORS if issubclass(operator, COMPILED)]
CASES = [
    (name, variant)
    for name in SAMPLES
    for variant in (VARIANTS if name.split("-")[0] in COMPILED_OPERATORS else DEFAULT)
]


def name_of(variant: Any) -> str:
    if isinstance(variant, str):
        return variant
    isa, dtype, threads = variant
    return f"{isa}-{str(dtype).removeprefix('torch.')}-{threads}"


@pytest.fixture
def variant(request: Any) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param[2])
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("name", "variant"), CASES, indirect=["variant"], ids=name_of)
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
    assert_same_course(dm, reference, frames)
