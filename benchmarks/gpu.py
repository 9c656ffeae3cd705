"""ResNet-50 on a GPU, float16, forced masks: the converted network beside the dense one in three forms.

    python -m benchmarks.gpu --batches 1 8 --out benchmarks/results/cuda_first.json

The whole call is timed with CUDA events, its host side included, in the order of the table; both sides in one process.
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
from deltafx.testing import blobs, force_masks

SHARES = {"nothing": 0.0, "one 32x32 blob": None, "1 %": 0.01, "5 %": 0.05, "10 %": 0.1, "25 %": 0.25, "all": 1.0}


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


def resnet50() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(0.5)  # activations stay small
    return model


def mask_of(share: float | None, height: int, width: int) -> Tensor:
    if share is None:
        mask = torch.zeros(height, width, dtype=torch.uint8)
        mask[height // 2 : height // 2 + 32, width // 2 : width // 2 + 32] = 1
        return mask.cuda()
    return (torch.ones(height, width, dtype=torch.uint8) if share == 1 else blobs(height, width, share)).cuda()


@torch.no_grad()
def case(batch: int, height: int, width: int, compiles: bool) -> dict[str, Any]:
    model = resnet50()
    dense = fx_optimization.fuse(model).cuda().half().to(memory_format=torch.channels_last)
    frame = torch.randn(batch, 3, height, width, device="cuda", dtype=torch.half)
    frame = frame.contiguous(memory_format=torch.channels_last)
    result: dict[str, Any] = {"batch": batch, "size": [height, width], "dense": {}, "converted": {}}
    result["dense"]["eager"] = milliseconds(lambda: dense(frame), 30)
    result["dense"]["CUDA graph"] = milliseconds(captured(lambda: dense(frame)), 30)
    if compiles:
        fast = torch.compile(dense)
        result["dense"]["torch.compile, CUDA graph"] = milliseconds(captured(lambda: fast(frame)))
    best = min(times["p50"] for times in result["dense"].values())
    dm = deltafx.convert(model.cuda().half(), backend="cuda")
    want, got = dense(frame).double(), dm(frame).double()
    result["relative_difference"] = ((got - want).norm() / want.norm()).item()
    for name, share in SHARES.items():
        with force_masks(dm, mask_of(share, height, width)):
            for _ in range(5):
                dm(frame)
            times = milliseconds(lambda: dm(frame))
            totals = deltafx.report(dm).totals
        result["converted"][name] = {
            **times, "times_faster": best / times["p50"], "macs": totals["macs"] / totals["macs_dense"],
        }  # fmt: skip
    show(result)
    return result


def show(result: dict[str, Any]) -> None:
    print(f"batch {result['batch']}, {result['size'][0]}x{result['size'][1]}")
    for name, times in result["dense"].items():
        print(f"  dense, {name:26s} {times['p50']:8.3f} ms")
    for name, each in result["converted"].items():
        print(f"  {name:33s} {each['p50']:8.3f} ms, {each['times_faster']:5.2f}x, {each['macs']:6.1%} of the MACs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", type=int, nargs=2, default=[720, 1280], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    cases = [case(batch, *options.size, not options.no_compile) for batch in options.batches]
    if options.out:
        facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
        command = "python -m benchmarks.gpu " + " ".join(sys.argv[1:])
        options.out.write_text(json.dumps({**facts, "command": command, "cases": cases}, indent=2) + "\n")


if __name__ == "__main__":
    main()
