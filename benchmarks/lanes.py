"""What it brings that nodes of a frame run side by side: whole calls with one lane and with several, in one run.

python -m benchmarks.lanes hrnet_w32:1:736x1280 nanodet:1:576x768 --data ../shared/data --out lanes.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import deltafx
from benchmarks import gpu_networks
from benchmarks.gpu import SHARES, mask_of, pictures
from benchmarks.gpu_times import milliseconds
from benchmarks.measure import surroundings
from deltafx.testing import force_masks

SHOWN = ("nothing", "one 32x32 blob", "5 %", "all")


@torch.no_grad()
def measured(name: str, data: Path) -> list[dict[str, Any]]:
    """A row for each forced mask; the number of lanes is settled when a network's first frame comes."""
    network, batch, size = name.split(":")
    height, width = map(int, size.split("x"))
    case, frames = gpu_networks.load(network, data), pictures(int(batch), height, width, torch.float16)
    model = case.model.cuda().half()
    converted = {}
    for lanes in (1, 4):
        with mock.patch("deltafx.backends.cuda.lanes.MOST_LANES", lanes):
            converted[lanes] = deltafx.convert(model, backend="cuda", **case.arguments)
            converted[lanes](frames[0])
    rows = []
    for share in SHOWN:
        row: dict[str, Any] = {"case": name, "mask": share}
        for lanes, dm in converted.items():
            with force_masks(dm, mask_of(SHARES[share], height, width), gates=case.forces_gates):
                turns = iter(range(1000))
                row[f"{lanes} lanes, ms"] = milliseconds(lambda dm=dm, turns=turns: dm(frames[next(turns) % 2]))["p50"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="NETWORK:BATCH:HEIGHTxWIDTH")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with NanoDet's ONNX file")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = [row for case in given.cases for row in measured(case, given.data)]
    for row in rows:
        one, several = row["1 lanes, ms"], row["4 lanes, ms"]
        print(f"{row['case']:26} {row['mask']:16} {one:7.3f} {several:7.3f}  {one / several:.2f} times as fast")
    if given.out:
        head = {**surroundings(), "device": torch.cuda.get_device_name(), "dtype": "float16"}
        given.out.write_text(json.dumps({**head, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
