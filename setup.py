"""Packaging: maps `passes/` and `models_zoo/` to deltafx.passes and deltafx.models_zoo."""

from pathlib import Path

from setuptools import find_packages, setup

MAPPED = ("passes", "models_zoo")  # folders at the top of the tree that are subpackages of deltafx

PACKAGES = find_packages(include=["deltafx", "deltafx.*"])
PACKAGES += [f"deltafx.{name}" for folder in MAPPED for name in find_packages(include=[folder, f"{folder}.*"])]

DEMO = ["av", "rich", "torchvision"]
DEV = [*DEMO, "hypothesis", "mypy", "pre-commit", "pytest", "ruff"]

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
    package_data={"deltafx": ["py.typed"], "deltafx.models_zoo": ["*.json"]},
    install_requires=["networkx", "numpy", "torch>=2.11"],
    extras_require={"demo": DEMO, "dev": DEV},
)
