"""What it takes to find and take over what changed of a frame on a GPU, by input gate; a whole frame takes that more.

    python -m benchmarks.entering 8x720x1280 1x1080x1920 --out benchmarks/results/entering.json

Frames are as a camera gives them, uint8 with some noise; a square moves over them. Of each kernel the time is counted,
by the profiler, since it began and the one before it ended. Megabytes are what must be read at least: all of the
frame and of what was propagated last.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import deltafx
from benchmarks.gpu_figures import device_events
from benchmarks.measure import surroundings
from deltafx.gate import AUTO, InputGate
from deltafx.networks import IMAGENET

GATES = {
    "exact": None,
    "balanced": AUTO,
    "window 3": InputGate(8, window=3),
    "hysteresis": replace(AUTO, weak=0.5, reach=8, neighbours=2),
}
FRAMES, WARM_FRAMES, SIDE = 24, 8, 96


def camera(streams: int, height: int, width: int) -> list[Tensor]:
    """Frames `[N, H, W, 3]`, with noise that the gates withhold."""
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (streams, height, width, 3)
    scene = torch.randint(40, 200, shape, dtype=torch.uint8, device="cuda", generator=generator)
    frames = []
    for step in range(FRAMES):
        frame = scene + torch.randint(0, 3, shape, dtype=torch.uint8, device="cuda", generator=generator)
        frame[:, 40 : 40 + SIDE, 16 * step : 16 * step + SIDE] += 50
        frames.append(frame)
    return frames


@torch.no_grad()
def measured(frames: list[Tensor], gate: InputGate | None) -> dict[str, Any]:
    """Microseconds of each kernel in a frame, their sum, and the share of pixels that passed in the last one."""
    dm = deltafx.convert(nn.Identity().eval(), backend="cuda", preprocess=IMAGENET, input_gate=gate).cuda()
    for frame in frames[:WARM_FRAMES]:
        dm(frame)
    events = device_events(lambda: [dm(frame) for frame in frames[WARM_FRAMES:]])
    kernels: dict[str, float] = defaultdict(float)
    done = 0.0
    for event in sorted(events, key=lambda event: event.time_range.end):
        begin, end = max(event.time_range.start, done), event.time_range.end
        done = end
        name = re.search(r"(\w+)_kernel\(deltafx|(begin_tally)_kernel", event.name)
        if name:
            kernels[name[1] or name[2]] += (end - begin) / (FRAMES - WARM_FRAMES)
    return {
        "microseconds": sum(kernels.values()), "kernels": dict(kernels),
        "updated": deltafx.report(dm).nodes[0].update_rate,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="+", metavar="STREAMSxHEIGHTxWIDTH")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    for size in given.sizes:
        frames = camera(*map(int, size.split("x")))
        for label, gate in GATES.items():
            row = {"size": size, "gate": label, **measured(frames, gate), "megabytes": 2e-6 * frames[0].numel()}
            told = ", ".join(f"{name} {time:.1f}" for name, time in row["kernels"].items())
            print(
                f"{size:14} {label:10} {row['microseconds']:6.0f} us, {row['updated']:5.1%} updated: {told}", flush=True
            )
            rows.append(row)
    if given.out:
        head = {**surroundings(), "device": torch.cuda.get_device_name()}
        given.out.write_text(json.dumps({**head, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
