"""Kernels run by threads of the host, where there is no device: the mask rule, and those of dense frames."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "emulated"
CSRC = Path(__file__).parents[3] / "csrc"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    compiler, home = shutil.which("g++"), Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    if compiler is None or not (home / "include" / "cuda_runtime.h").is_file():
        pytest.skip("it takes g++ and the headers of CUDA")

    def built(name: str) -> Path:
        made = tmp_path_factory.mktemp("emulated") / name
        # -fpermissive: a kernel's address is given to a function of the runtime, as nvcc allows.
        words = [compiler, "-std=c++20", "-O1", "-fpermissive", "-w", "-pthread", "-isystem", str(home / "include")]
        words += [f"-I{CSRC}", f"-I{CSRC / 'include'}", str(HERE / f"{name}.cpp"), "-o", str(made)]
        subprocess.run([*words, f"-L{home / 'lib64'}", "-lcudart_static", "-ldl", "-lrt"], check=True)
        return made

    return built


CASES = {"candidates": 40, "depthwise": 8, "enter": 6, "products": 5, "steps": 3}  # of each program, and a run's


@pytest.mark.parametrize(("name", "count"), CASES.items())
def test_kernels_compute_what_plain_loops_do(build: Callable[[str], Path], name: str, count: int) -> None:
    program = build(name)
    for seed in range(3):
        ran = subprocess.run([program, str(seed), str(count)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout
