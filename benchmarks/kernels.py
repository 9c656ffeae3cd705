"""Where the time of a frame's kernels goes, as Nsight Compute counts it: one launch of each, in a frame of few updates.

python -m benchmarks.kernels resnet50:8:720x1280 resnet50:1:720x1280 --out benchmarks/results/kernels.json

A frame with forced masks (5 %) is run node by node under `ncu`, which must be on PATH, and every launch is replayed for
its counters, apart from the others: what lies between two launches is not in it, and is told by the time of the whole
frame beside it. The table beside the JSON sums launches up by what they do; a share of peak is weighted by time.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import deltafx
from benchmarks import gpu_networks
from benchmarks.gpu import mask_of, pictures
from benchmarks.gpu_times import milliseconds
from benchmarks.measure import surroundings
from deltafx.testing import force_masks

SHARE = 0.05
TIME = "gpu__time_duration.sum"
# Shares of what the device can do, then what warps wait for, in cycles of each that is issued.
SHARES = {
    "tensor cores": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed",
    "second cache": "lts__t_sectors.avg.pct_of_peak_sustained_elapsed",
    "memory": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "warps": "sm__warps_active.avg.pct_of_peak_sustained_active",
}
WAITS = {
    "for what is read": "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "at barriers": "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
    "for shared memory": "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio",
    "for code": "smsp__average_warps_issue_stalled_no_instruction_per_issue_active.ratio",
    "for tensor cores": "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio",
    "for an instruction before": "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",
}
METRICS = (TIME, *SHARES.values(), *WAITS.values())
MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}


@torch.no_grad()
def run(name: str, data: Path, profiled: bool) -> float:
    """Milliseconds of a whole call; `profiled`: one frame between the profiler's marks, node by node."""
    network, batch, size = name.split(":")
    height, width = map(int, size.split("x"))
    case, frames = gpu_networks.load(network, data), pictures(int(batch), height, width, torch.float16)
    options = {"dense_switch": False, "cuda_graph": not profiled}
    dm = deltafx.convert(case.model.cuda().half(), backend="cuda", options=options, **case.arguments)
    turns = iter(range(1000))
    with force_masks(dm, mask_of(SHARE, height, width), gates=case.forces_gates):
        if not profiled:
            return milliseconds(lambda: dm(frames[next(turns) % 2]))["p50"]
        for _ in range(3):
            dm(frames[next(turns) % 2])
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        dm(frames[next(turns) % 2])
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()
    return 0.0


def counted(name: str, data: Path, seconds: float) -> list[dict[str, Any]]:
    """A row for each launch of a frame, as ncu tells it."""
    command = ["ncu", "--profile-from-start", "off", "--clock-control", "none", "--cache-control", "none"]
    command += ["--metrics", ",".join(METRICS), "--csv", "--page", "raw"]
    command += [sys.executable, "-W", "ignore", "-m", "benchmarks.kernels", name, "--data", str(data), "--profiled"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    begin = said.stdout.find('"ID"')
    if begin < 0:
        raise SystemExit(f"{name}: ncu gave no table: {(said.stdout + said.stderr).strip()[-800:]}")
    return list(rows_of(said.stdout[begin:]))


def rows_of(table: str) -> Iterator[dict[str, Any]]:
    """The launches in ncu's table, whose second line has the units."""
    lines = csv.DictReader(io.StringIO(table))
    units = next(lines)
    for line in lines:
        row: dict[str, Any] = {"kernel": line["Kernel Name"].split("(")[0].split("<")[0].split("::")[-1].split()[-1]}
        row["us"] = number(line[TIME]) * MICROSECONDS[units[TIME]]
        for title, metric in {**SHARES, **WAITS}.items():
            row[title] = number(line.get(metric, ""))
        yield row


def number(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return 0.0


def summed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By kernel, the longest first."""
    found = []
    for kernel in {row["kernel"] for row in rows}:
        own = [row for row in rows if row["kernel"] == kernel]
        time = sum(row["us"] for row in own)
        shares = {title: sum(row[title] * row["us"] for row in own) / time for title in (*SHARES, *WAITS)}
        found.append({"kernel": kernel, "launches": len(own), "us": time, **shares})
    return sorted(found, key=lambda row: -row["us"])


def table(result: dict[str, Any]) -> Iterable[str]:
    yield "# Kernels of a frame with 5 % forced updates, by Nsight Compute"
    yield ""
    yield f"* `{result['command']}`"
    apart = ("command", "cases", "kernels")
    yield "* " + ", ".join(f"{key}: {text}" for key, text in result.items() if key not in apart)
    yield "* each launch by itself, with the caches as the one before left them; shares of the device's peak, per cent"
    yield "* waits: how many warps stood waiting for it, on average, each time an instruction was issued"
    for case in result["cases"]:
        yield ""
        yield f"## {case['case']}: {case['ms']:.2f} ms a call, {case['ms_in_kernels']:.2f} in its kernels"
        yield ""
        titles = ["kernel", "launches", "us", *SHARES, *(f"waits {title}" for title in WAITS)]
        yield "| " + " | ".join(titles) + " |"
        yield "|" + "---|" * len(titles)
        for row in result["kernels"]:
            if row["case"] != case["case"]:
                continue
            cells = [row["kernel"], str(row["launches"]), f"{row['us']:.0f}"]
            cells += [f"{row[title]:.0f}" for title in SHARES] + [f"{row[title]:.1f}" for title in WAITS]
            yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="NETWORK:BATCH:HEIGHTxWIDTH")
    parser.add_argument("--data", type=Path, default=Path(), help="the folder with NanoDet's weights")
    parser.add_argument("--out", type=Path, default=Path("kernels.json"), help="the JSON; the table is beside it")
    parser.add_argument("--seconds", type=float, default=300.0, help="that ncu may take for a case")
    parser.add_argument("--profiled", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.profiled:
        run(args.cases[0], args.data, profiled=True)
        return
    cases, kernels = [], []
    for name in args.cases:
        took = run(name, args.data, profiled=False)
        rows = summed(counted(name, args.data, args.seconds))
        cases.append({"case": name, "ms": took, "ms_in_kernels": sum(row["us"] for row in rows) / 1000})
        kernels += [{"case": name, **row} for row in rows]
    result = {**surroundings(), "device": torch.cuda.get_device_name(), "cases": cases, "kernels": kernels}
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(table(result)) + "\n"
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
