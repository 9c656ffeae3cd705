"""The input gate on the CPU passes the pixels that it passes in the reference, whatever the instruction set."""

from __future__ import annotations

import pytest

import deltafx
from deltafx import _cpu
from tests.test_gate import IDENTITY, assert_same_pixels, moving

GATES = [
    None,
    deltafx.InputGate(9, window=1),
    deltafx.InputGate(6.1, window=3, dilation=1),
    deltafx.InputGate(4.1, window=5, weak=0.5, reach=3, neighbours=2),
    deltafx.InputGate(4.1, window=7, dilation=5, noise=4, drift=12),
]


@pytest.mark.parametrize("isa", _cpu.instruction_sets)
@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("raw", [False, True])
def test_it_passes_the_same_pixels(gate: deltafx.InputGate | None, raw: bool, isa: str) -> None:
    preprocess = deltafx.Preprocess(mean=(0.45,) * 3, std=(0.225,) * 3) if raw else None
    dms = [
        deltafx.convert(IDENTITY, backend=name, input_gate=gate, preprocess=preprocess, options=options)
        for name, options in (("reference", {}), ("cpu", {"isa": isa}))
    ]
    assert_same_pixels(dms, moving(raw))
