"""What was compiled, for which hardware, or why not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from typing import Any

import torch

from deltafx.backends import BACKENDS, choose_backend, unavailable


def build_info() -> dict[str, Any]:
    """Versions, and for each backend "available" or the reason why it is not.

    `auto` is what `convert` chooses for a model on the CPU, `auto_on_gpu` for one on the current GPU (None: there is
    none).
    """
    return {
        "deltafx": importlib.metadata.version("deltafx"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cuda": torch.version.cuda if torch.cuda.is_available() else "no CUDA device is visible",
        "cpu": cpu_build(),
        "cuda_kernels": cuda_build(),
        "backends": {name: unavailable(name) or "available" for name in BACKENDS},
        "auto": choose_backend("auto"),
        "auto_on_gpu": choose_backend("auto", [torch.device("cuda")]) if torch.cuda.is_available() else None,
    }


def cpu_build() -> dict[str, Any] | str:
    """The compiler of the CPU kernels and the instruction sets that this processor can run, the fastest first."""
    if unavailable("cpu"):
        return "not built"
    from deltafx import _cpu

    return {"compiler": _cpu.compiler, "instruction_sets": _cpu.instruction_sets}


def cuda_build() -> dict[str, Any] | str:
    """The compiler of the CUDA kernels and the architectures that they are compiled for."""
    if importlib.util.find_spec("deltafx._cuda") is None:
        return "not built"
    from deltafx import _cuda

    return {"compiler": _cuda.compiler, "architectures": _cuda.architectures}
