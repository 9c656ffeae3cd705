"""Packaging: maps `passes/` and `models_zoo/` to deltafx.passes and deltafx.models_zoo, and builds `csrc/`."""

import os
import sys
from pathlib import Path

from setuptools import find_packages, setup

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as error:
    raise SystemExit(
        "deltafx compiles against the PyTorch that it will run with, which is not visible here. Install torch first, "
        "then deltafx with --no-build-isolation."
    ) from error

MAPPED = ("passes", "models_zoo")  # folders at the top of the tree that are subpackages of deltafx

PACKAGES = find_packages(include=["deltafx", "deltafx.*"])
PACKAGES += [f"deltafx.{name}" for folder in MAPPED for name in find_packages(include=[folder, f"{folder}.*"])]

DEMO = ["av", "onnx2torch", "pillow", "rich", "torchvision", "typer"]
ZOO = [*DEMO, "effdet", "onnx", "timm"]  # all networks of `deltafx coverage`
BENCH = ["rich", "torchvision", "typer"]
DEV = [*DEMO, *BENCH, "hypothesis", "mypy", "ninja", "pre-commit", "pybind11", "pytest", "pytest-xdist", "ruff"]

# DELTAFX_SANITIZE=1: with the address and undefined-behaviour sanitizers, which stop at the first error.
SANITIZE = os.environ.get("DELTAFX_SANITIZE") == "1"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# PyTorch's pool is OpenMP's; its parallel_for is in a header and does nothing without this.
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []
CPU = CppExtension(
    "deltafx._cpu",
    sorted(str(path) for folder in ("cpu", "bindings") for path in Path("csrc", folder).glob("*.cpp")),
    extra_compile_args=[*OPENMP, "-O1", "-g", *SANITIZERS] if SANITIZE else [*OPENMP, "-O3", "-g0"],
    extra_link_args=[*OPENMP, *SANITIZERS] if SANITIZE else OPENMP,
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
    package_data={"deltafx": ["py.typed", "*.pyi"], "deltafx.models_zoo": ["*.json"]},
    install_requires=["networkx", "numpy", "torch>=2.11"],
    entry_points={"console_scripts": ["deltafx = deltafx.__main__:main"]},
    extras_require={"bench": BENCH, "demo": DEMO, "dev": DEV, "zoo": ZOO},
    ext_modules=[CPU],
    cmdclass={"build_ext": BuildExtension},
)
