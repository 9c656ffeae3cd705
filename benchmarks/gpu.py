"""Converted networks on a GPU, forced masks, beside the dense networks in three forms.

    python -m benchmarks.gpu --cases resnet50:8:720x1280 resnet50:1:1080x1920 --out benchmarks/results/cuda.json

The whole call is timed with CUDA events, its host side included, in the order of the table; both sides in one process.
Cases that the file already has are not run again; a table is written beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental.optimization as fx_optimization
import torchvision
from torch import Tensor, nn

import deltafx
from deltafx.measure import tensors_of
from deltafx.testing import blobs, clip, force_masks, scale_weights

SHARES = {"nothing": 0.0, "one 32x32 blob": None, "1 %": 0.01, "5 %": 0.05, "10 %": 0.1, "25 %": 0.25, "all": 1.0}
CASES = ("resnet50:8:720x1280", "resnet50:1:720x1280", "resnet50:1:1080x1920", "mobilenet_v2:8:720x1280")
OPTIONS: dict[str, dict[str, Any]] = {"fcn_resnet50": {"weights_backbone": None}}


def milliseconds(call: Callable[[], Any], count: int = 60, warm: int = 10) -> dict[str, float]:
    for _ in range(warm):
        call()
    torch.cuda.synchronize()
    times = []
    for _ in range(count):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    times.sort()
    return {"p50": statistics.median(times), "p99": times[int(0.99 * (count - 1))]}


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **OPTIONS.get(name, {})).eval()
    return scale_weights(model, torch.cat(list(clip(6, 224, 224))))


def mask_of(share: float | None, height: int, width: int) -> Tensor:
    if share is None:
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[height // 2 : height // 2 + 32, width // 2 : width // 2 + 32] = 1
        return mask.cuda()
    return (torch.ones(height, width, dtype=torch.uint8) if share == 1 else blobs(height, width, share)).cuda()


def relative_difference(got: Any, want: Any) -> float:
    pairs = list(zip(tensors_of(got), tensors_of(want), strict=True))
    change = sum((a.double() - b.double()).square().sum() for a, b in pairs)
    return float((change / sum(b.double().square().sum() for _, b in pairs)).sqrt())


@torch.no_grad()
def measured(case: str, compiles: bool) -> dict[str, Any]:
    name, batch, size = case.split(":")
    height, width = (int(x) for x in size.split("x"))
    model = network(name)
    dense = fx_optimization.fuse(model).cuda().half().to(memory_format=torch.channels_last)
    frame = torch.randn(int(batch), 3, height, width, device="cuda", dtype=torch.half)
    frame = frame.contiguous(memory_format=torch.channels_last)
    result: dict[str, Any] = {"dense": {}, "converted": {}}
    result["dense"]["eager"] = milliseconds(lambda: dense(frame), 30)
    result["dense"]["CUDA graph"] = milliseconds(captured(lambda: dense(frame)), 30)
    if compiles:
        fast = torch.compile(dense)
        result["dense"]["torch.compile, CUDA graph"] = milliseconds(captured(lambda: fast(frame)))
    best = min(times["p50"] for times in result["dense"].values())
    dm = deltafx.convert(model.cuda().half(), backend="cuda")
    result["relative_difference"] = relative_difference(dm(frame), dense(frame))
    for label, share in SHARES.items():
        with force_masks(dm, mask_of(share, height, width)):
            for _ in range(5):
                dm(frame)
            times = milliseconds(lambda: dm(frame))
            totals = deltafx.report(dm).totals
        result["converted"][label] = {
            **times, "times_faster": best / times["p50"], "macs": totals["macs"] / totals["macs_dense"],
        }  # fmt: skip
    result["state_bytes"] = deltafx.report(dm).totals["state_bytes"]
    return result


def table(facts: dict[str, Any]) -> str:
    lines = [
        "# The CUDA backend",
        "",
        f"{facts['device']}, PyTorch {facts['torch']}, float16, forced masks; whole calls, median and 99th percentile "
        f"in ms. Repeat with `{facts['command']}`.",
    ]
    for case, result in facts["cases"].items():
        name, batch, size = case.split(":")
        best = min(times["p50"] for times in result["dense"].values())
        lines += ["", f"## {name}, batch {batch}, {size}", "", "| | p50 | p99 | times the best dense | MACs computed |"]
        lines.append("|---|---|---|---|---|")
        for label, times in result["dense"].items():
            mark = " (best)" if times["p50"] == best else ""
            lines.append(f"| dense, {label}{mark} | {times['p50']:.2f} | {times['p99']:.2f} | | |")
        for label, each in result["converted"].items():
            lines.append(
                f"| {label} | {each['p50']:.2f} | {each['p99']:.2f} | {each['times_faster']:.2f} | {each['macs']:.1%} |"
            )
        state, difference = result["state_bytes"] / 2**20, result["relative_difference"]
        lines += ["", f"State: {state:,.0f} MiB. The first frame differs from the dense one's by {difference:.1e}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="NETWORK:BATCH:HEIGHTxWIDTH")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:]), "cases": {},
    }  # fmt: skip
    if options.out and options.out.exists():
        facts["cases"] = json.loads(options.out.read_text())["cases"]
    for case in options.cases:
        if case in facts["cases"]:
            continue
        facts["cases"][case] = result = measured(case, not options.no_compile)
        print(table({**facts, "cases": {case: result}}), flush=True)
        if options.out:
            options.out.write_text(json.dumps(facts, indent=2) + "\n")
            options.out.with_suffix(".md").write_text(table(facts))


if __name__ == "__main__":
    main()
