"""Timing two sides in one run, and what a result must be read with."""

from __future__ import annotations

import datetime
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Times:
    """Milliseconds of one side: the median, and between which values half of the runs lie."""

    median: float
    lower: float
    upper: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        ordered = sorted(1000 * second for second in seconds)
        quarter = len(ordered) // 4
        return cls(statistics.median(ordered), ordered[quarter], ordered[-1 - quarter], len(ordered))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def interleaved(sides: Sequence[Callable[[int], Any]], seconds: float, least: int = 5) -> list[Times]:
    """Run the sides in turn, each with the number of the round, for `seconds` in all and `least` rounds at least.

    The first round, in which caches and buffers are filled, does not count.
    """
    times: list[list[float]] = [[] for _ in sides]
    started = time.perf_counter()
    rounds = 0
    while rounds <= least or time.perf_counter() - started < seconds:
        for side, kept in zip(sides, times, strict=True):
            start = time.perf_counter()
            side(rounds)
            if rounds:
                kept.append(time.perf_counter() - start)
        rounds += 1
    return [Times.of(kept) for kept in times]


def surroundings() -> dict[str, Any]:
    """What a result must be read with: the command, the versions, the machine."""
    return {
        "command": "python " + shlex.join([*module_of(sys.argv[0]), *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "commit": output_of("git", "describe", "--always", "--dirty"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "cores": torch.get_num_threads(),
    }


def module_of(script: str) -> list[str]:
    """A script of a folder of the project is run as a module."""
    path = Path(script).resolve()
    return ["-m", f"{path.parent.name}.{path.stem}"]


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
