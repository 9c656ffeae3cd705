"""Kernels keep their numbers in registers, as nvcc compiles them.

Arrays in memory share their places. So one whose address a function that is not inlined knows brings others with it:
weights of depthwise convolutions were written to memory tap by tap, and frames of MobileNetV2 with 5 % changed took a
fifth longer. And what a step takes of its operand, which it chose at run time, was read from memory number by number:
frames of eight streams of ResNet-50 with 5 % changed took 3 % longer.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[3] / "csrc"
COMPILES = ("-ptx", "-arch=compute_90a", "-O3", "-std=c++17")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="it takes nvcc")
@pytest.mark.parametrize("name", ["convolve", "dense", "depthwise", "depthwise_all", "pool", "reduce"])
def test_nothing_lies_in_memory(name: str, tmp_path: Path) -> None:
    source, made = CSRC / "cuda" / f"{name}.cu", tmp_path / f"{name}.ptx"
    subprocess.run(["nvcc", *COMPILES, str(source), "-o", str(made)], check=True)
    text = made.read_text()
    sizes = [int(size) for size in re.findall(r"\.local .*__local_depot\d+\[(\d+)\]", text)]
    assert text.count(".entry") >= 3
    assert sizes == []
