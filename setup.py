"""Packaging: maps `passes/` and `models_zoo/` to deltafx.passes and deltafx.models_zoo, and builds `csrc/`."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup


def cuda_toolkit() -> str | None:
    """The folder with nvcc and CUDA's headers, also where the nvcc on PATH only leads to it."""
    found = shutil.which("nvcc")
    folders = [os.environ.get("CUDA_HOME"), found and Path(found).resolve().parents[1], "/usr/local/cuda"]
    parts = ("bin/nvcc", "include/cuda_runtime.h")
    return next((str(f) for f in folders if f and all(Path(f, part).exists() for part in parts)), None)


def toolkit_version() -> str:
    """As nvcc says it: "13.0"."""
    said = subprocess.run(
        [f"{cuda_toolkit()}/bin/nvcc", "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = re.search(r"release (\d+\.\d+)", said)
    return found[1] if found else "unknown"


if cuda_toolkit():
    os.environ["CUDA_HOME"] = str(cuda_toolkit())  # before PyTorch looks for one

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
except ImportError as error:
    raise SystemExit(
        "deltafx compiles against the PyTorch that it will run with, which is not visible here. Install torch first, "
        "then deltafx with --no-build-isolation."
    ) from error

MAPPED = ("passes", "models_zoo")  # folders at the top of the tree that are subpackages of deltafx

PACKAGES = find_packages(include=["deltafx", "deltafx.*"])
PACKAGES += [f"deltafx.{name}" for folder in MAPPED for name in find_packages(include=[folder, f"{folder}.*"])]

DRAW = ["pydot"]  # and Graphviz's program `dot`
EXPLORE = ["ai-edge-model-explorer"]
DOCS = ["mkdocs-material", "mkdocstrings[python]"]
DEMO = ["av", "onnx2torch", "pillow", "rich", "torchvision", "typer"]
ZOO = [*DEMO, "effdet", "onnx", "timm"]  # all networks of `deltafx coverage`
MEASURE = ["matplotlib", "torchmetrics[detection]"]
BENCH = [*DEMO, *MEASURE, "onnx", "onnxruntime", "openvino"]  # with the opponents; a benchmark says who is missing
DEV = [*DEMO, *MEASURE, *DRAW, *EXPLORE, *DOCS, "hypothesis", "mypy", "ninja", "playwright", "pre-commit", "pybind11"]
DEV += ["pytest", "pytest-xdist", "ruff", "sybil"]
EXTRAS = {"bench": BENCH, "demo": DEMO, "dev": DEV, "docs": DOCS, "draw": DRAW, "explore": EXPLORE, "zoo": ZOO}

# DELTAFX_SANITIZE=1: with the address and undefined-behaviour sanitizers, which stop at the first error.
SANITIZE = os.environ.get("DELTAFX_SANITIZE") == "1"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# PyTorch's pool is OpenMP's; its parallel_for is in a header and does nothing without this.
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []
CPU = CppExtension(
    "deltafx._cpu",
    sorted(str(path) for path in (*Path("csrc/cpu").glob("*.cpp"), *Path("csrc/bindings").glob("cpu_*.cpp"))),
    extra_compile_args=[*OPENMP, "-O1", "-g", *SANITIZERS] if SANITIZE else [*OPENMP, "-O3", "-g0"],
    extra_link_args=[*OPENMP, *SANITIZERS] if SANITIZE else OPENMP,
)

# TORCH_CUDA_ARCH_LIST is PyTorch's own choice of architectures; without a device to ask, it would guess. "9.0a" has
# Hopper's matrix instructions, and newer devices compile what is intermediate for themselves.
INTERMEDIATE = [] if "TORCH_CUDA_ARCH_LIST" in os.environ else ["-gencode=arch=compute_90,code=compute_90"]
ARCHITECTURES = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0a")


def cudnn() -> Path | None:
    """The folder with the headers of the cuDNN that PyTorch loads, where that is a package of its own."""
    package = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cudnn")
    folders = package.submodule_search_locations if package else None
    return next((Path(f) for f in folders or () if all(Path(f, part).exists() for part in CUDNN_PARTS)), None)


CUDNN_PARTS = ("include/cudnn.h", "lib/libcudnn.so.9")


def why_no_cuda() -> str | None:
    """Why the CUDA kernels cannot be built here, or None."""
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if cuda_toolkit() is None:
        return f"there is no CUDA toolkit with nvcc (this PyTorch is built with CUDA {torch.version.cuda})"
    if toolkit_version().split(".")[0] != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {toolkit_version()}, this PyTorch is built with CUDA {torch.version.cuda}"
    if SANITIZE:
        return "the sanitizers are for the CPU kernels"
    if os.environ.get("DELTAFX_CUDA") == "0":
        return "DELTAFX_CUDA=0"
    return None


EXTENSIONS = [CPU]
if why_no_cuda():
    print(f"deltafx: building without CUDA kernels: {why_no_cuda()}.", file=sys.stderr)
else:
    # PyTorch has loaded it, so that its name is enough to find it.
    fused = [("DELTAFX_CUDNN", None)] if cudnn() else []
    EXTENSIONS.append(
        CUDAExtension(
            "deltafx._cuda",
            sorted(str(path) for path in (*Path("csrc/cuda").glob("*.cu"), *Path("csrc/bindings").glob("cuda_*.cpp"))),
            define_macros=[("DELTAFX_CUDA_ARCHITECTURES", f'"{ARCHITECTURES}"'), *fused],
            include_dirs=[f"{cudnn()}/include"] if fused else [],
            library_dirs=[f"{cudnn()}/lib"] if fused else [],
            libraries=[":libcudnn.so.9"] if fused else [],
            extra_compile_args={"cxx": ["-O3", "-g0"], "nvcc": ["-O3", *INTERMEDIATE]},
        )
    )

setup(
    name="deltafx",
    version="0.1.0",
    description="A compiler that makes trained CNNs compute only what changed since the last frame of a video",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=PACKAGES,
    package_dir={f"deltafx.{folder}": folder for folder in MAPPED},
    package_data={
        "deltafx": ["py.typed", "*.pyi"],
        "deltafx.models_zoo": ["calibrations/*.json"],
        "deltafx.views.page": ["page.*", "lib/*"],
    },
    install_requires=["networkx", "numpy", "torch>=2.11"],
    entry_points={"console_scripts": ["deltafx = deltafx.__main__:main"]},
    extras_require=EXTRAS,
    ext_modules=EXTENSIONS,
    cmdclass={"build_ext": BuildExtension},
)
