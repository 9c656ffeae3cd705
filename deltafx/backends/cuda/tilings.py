"""Which tiles a convolution has on a device: as `deltafx.tune` measured there, else as a model of their costs expects.

A file for each kind of device, in deltafx's cache folder, has what was measured.
"""

from __future__ import annotations

import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltafx import _cuda
from deltafx.models_zoo.assets import cache_dir

NAMES = {number: name for name, number in _cuda.tiles.items()}


@dataclass(frozen=True)
class Tilings:
    """Of one convolution. A tiling is the number of a tile, and how many blocks have one together."""

    key: str  # what the choice may depend on
    possible: tuple[tuple[int, int], ...]
    device: str

    @classmethod
    def of(cls, arguments: tuple[Any, ...], out: Tensor) -> Tilings:
        x, _, groups, rows, columns, *_, exact = arguments
        numbers = torch.ops.deltafx_cuda.tilings.default(*arguments, out.shape[1])
        kind = f"{str(x.dtype).removeprefix('torch.')}{' exact' if exact else ''}"
        window = f"{rows.shape[1]}x{columns.shape[1]}"
        key = f"{kind} {window} {x.shape[1]} to {out.shape[1]} in {groups}, {out.shape[0]} pixels of {x.shape[0]}"
        return cls(key, tuple(zip(numbers[::2], numbers[1::2], strict=True)), torch.cuda.get_device_name(x.device))

    def best(self) -> list[int]:
        """What was measured to be the best, if it was; `[]` leaves it to the model."""
        tile, parts = measured(self.device).get(self.key, ("", 0))
        tiling = (_cuda.tiles.get(tile, -1), parts)
        return list(tiling) if tiling in self.possible else []


@functools.cache
def measured(device: str) -> dict[str, tuple[str, int]]:
    """What is known of a kind of device, by key. An unreadable file is an empty one."""
    try:
        found = json.loads(file_of(device).read_text(encoding="utf-8"))
        return {str(key): (str(tile), int(parts)) for key, (tile, parts) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def keep(device: str, found: dict[str, tuple[int, int]]) -> Path:
    """Add what was measured to what is known, in this process and in the file."""
    known, file = measured(device), file_of(device)
    known.update({key: (NAMES[tile], parts) for key, (tile, parts) in found.items()})
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
    fresh.replace(file)
    return file


def file_of(device: str) -> Path:
    return cache_dir() / "tilings" / f"{re.sub(r'[^A-Za-z0-9]+', '-', device)}.json"
