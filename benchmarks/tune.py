"""What `deltafx.tune` brings: whole calls before and after it, and what it found.

python -m benchmarks.tune 8 1 --out benchmarks/results/tune.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import deltafx
from benchmarks import gpu_networks
from benchmarks.gpu import mask_of
from benchmarks.measure import surroundings
from deltafx.testing import force_masks

HEIGHT, WIDTH, CALLS = 720, 1280, 40
TUNED_AT = 0.05
SHARES: dict[str, float | None] = {"one 32x32 blob": None, "5 %": TUNED_AT, "25 %": 0.25}


def call_time(dm: Any, frame: Tensor, mask: Tensor) -> float:
    """Median, in ms."""
    times = []
    with force_masks(dm, mask):
        for k in range(CALLS + 6):  # the first are in full, and are captured
            torch.cuda.synchronize()
            begin = time.perf_counter()
            dm(frame)
            torch.cuda.synchronize()
            if k >= 6:
                times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


@torch.no_grad()
def measured(batch: int) -> dict[str, Any]:
    frame = torch.randn(batch, 3, HEIGHT, WIDTH, device="cuda", dtype=torch.half)
    frame = frame.contiguous(memory_format=torch.channels_last)
    dm = deltafx.convert(gpu_networks.load("resnet50", Path()).model.cuda().half(), backend="cuda")
    masks = {name: mask_of(share, HEIGHT, WIDTH) for name, share in SHARES.items()}
    times: Callable[[], dict[str, float]] = lambda: {name: call_time(dm, frame, mask) for name, mask in masks.items()}  # noqa: E731
    before, begin = times(), time.perf_counter()
    with force_masks(dm, mask_of(TUNED_AT, HEIGHT, WIDTH)):
        tuning = deltafx.tune(dm, [frame] * 4)
    seconds = time.perf_counter() - begin
    return {
        "streams": batch, "gain": tuning.gain, "seconds": seconds, "before": before, "after": times(),
        "convolutions": [asdict(c) for c in tuning.convolutions],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batches", nargs="*", type=int, default=[8, 1])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict("os.environ", DELTAFX_CACHE=cache):
        results = [measured(batch) for batch in given.batches]
    print("| streams | convolutions alone, together | " + " | ".join(SHARES) + " | tuning took |")
    print("|" + "---|" * (len(SHARES) + 3))
    for r in results:
        calls = " | ".join(f"{r['before'][name]:.2f} to {r['after'][name]:.2f}" for name in SHARES)
        print(f"| {r['streams']} | {r['gain']:.2f} times as fast | {calls} | {r['seconds']:.1f} s |")
    if given.out:
        head = {**surroundings(), "device": torch.cuda.get_device_name(), "frame": f"{WIDTH}x{HEIGHT}"}
        given.out.write_text(json.dumps({**head, "results": results}, indent=1))


if __name__ == "__main__":
    main()
