"""Kernels keep their numbers in registers, as nvcc compiles them.

Arrays in memory share their places. So one whose address a function that is not inlined knows brings others with it:
weights of depthwise convolutions were written to memory tap by tap, and frames of MobileNetV2 with 5 % changed took a
fifth longer.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[3] / "csrc"
COMPILES = ("-ptx", "-arch=compute_90a", "-O3", "-std=c++17")
OPERANDS = 4 * 16  # bytes: a step chooses at run time what it takes of its operand, of up to four pixels


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="it takes nvcc")
@pytest.mark.parametrize("name", ["depthwise", "depthwise_all", "pool", "reduce"])
def test_nothing_but_operands_of_steps_lies_in_memory(name: str, tmp_path: Path) -> None:
    source, made = CSRC / "cuda" / f"{name}.cu", tmp_path / f"{name}.ptx"
    subprocess.run(["nvcc", *COMPILES, str(source), "-o", str(made)], check=True)
    text = made.read_text()
    sizes = [int(size) for size in re.findall(r"\.local .*__local_depot\d+\[(\d+)\]", text)]
    assert text.count(".entry") >= 3
    assert [size for size in sizes if size > OPERANDS] == []
