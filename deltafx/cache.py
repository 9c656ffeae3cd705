"""Where files that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns the folder of assets and measurements: $DELTAFX_CACHE, or deltafx/ in the user's cache folder."""
    if explicit := os.environ.get("DELTAFX_CACHE"):
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deltafx"
