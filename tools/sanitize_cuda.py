"""The CUDA kernels under NVIDIA's compute-sanitizer: memory that is not theirs, races, and memory never written.

    python -m tools.sanitize_cuda                    # memcheck, racecheck and initcheck
    python -m tools.sanitize_cuda --tools initcheck --parts float16 --seconds 150 --out sanitize.json

Every tool runs every part in a process of its own, and all side by side: most of their time is that of one processor.
Errors in other kernels (PyTorch's) are counted apart: initcheck finds some there. Exit code 1 where there is one in
ours, or a part did not end in time. The program comes with the CUDA toolkit, or with
`pip install nvidia-cuda-sanitizer-api`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.measure import surroundings

TOOLS = ("memcheck", "racecheck", "initcheck")
OURS = "deltafx"  # in the names of our kernels
FINDING = re.compile(r"^========= (Invalid|Uninitialized|Error:|Warning: Race|Barrier|Misaligned|Program hit)")
CASE = re.compile(r"^\d+ s: ")  # before the name of one that ran
ONLY_OURS = ("--kernel-name", f"kernel_substring={OURS}")  # are watched; initcheck must see who writes first
NO_CACHE = "PYTORCH_NO_CUDA_MEMORY_CACHING"
# Where host code stood is looked up at every launch, which takes longer than most of the kernels here.
QUICKLY = ("--show-backtrace", "device")
FIRST_PORT, PORTS = 49152, 16  # the processes of a tool talk by them


@dataclass
class Outcome:
    """What a tool found in our kernels and in others, and whether the cases ran to their end."""

    tool: str
    part: str
    ours: int
    others: int
    finished: bool
    first: str = ""  # finding in ours
    last: str = ""  # that they said, or the error that ended them
    seconds: float = 0.0

    @property
    def well(self) -> bool:
        return self.finished and not self.ours


def program() -> str:
    wheels = importlib.util.find_spec("nvidia")
    folders = list(wheels.submodule_search_locations or []) if wheels else []
    folders += [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    found = shutil.which("compute-sanitizer")
    for folder in filter(None, folders):
        found = found or next((str(path) for path in Path(folder).rglob("compute-sanitizer") if path.is_file()), None)
    if found is None:
        raise SystemExit("compute-sanitizer is missing: pip install nvidia-cuda-sanitizer-api")
    return found


def blocks(said: str) -> Iterator[str]:
    """Every finding of a tool's report, with the lines that belong to it."""
    kept: list[str] = []
    for line in said.splitlines():
        if FINDING.match(line):
            if kept:
                yield "\n".join(kept)
            kept = [line]
        elif kept and line.startswith("========= "):
            kept.append(line)
        elif kept:
            yield "\n".join(kept)
            kept = []
    if kept:
        yield "\n".join(kept)


def judge(tool: str, part: str, said: str) -> Outcome:
    """Whose kernels a report is about. What names no kernel (a call that failed) counts as ours."""
    ours, others = [], 0
    for block in blocks(said):
        in_a_kernel = re.search(r"\bat .*\+0x", block)
        if OURS in block or not in_a_kernel:
            ours.append(block)
        else:
            others += 1
    own = [line for line in said.splitlines() if line and not line.startswith("=========")]
    last = [line for line in own if re.match(r"\S*Error: ", line)][-1:] or own[-1:]  # an error is explained below it
    ran = [line for line in own if CASE.match(line)]
    if ran and last != ran[-1:]:
        last = [f"after {CASE.sub('', ran[-1])}: ", *last]
    return Outcome(tool, part, len(ours), others, END in said, ours[0] if ours else "", "".join(last)[-300:])


END = "every case ran"


# Input channels, output channels, height, width, streams, and what else a convolution is made with: small ones that
# need every way to find pixels, to gather and to share a sum.
CONVOLUTIONS: dict[str, tuple[int, int, int, int, int, dict[str, Any]]] = {
    "3x3": (64, 64, 9, 14, 2, {"kernel_size": 3, "padding": 1}),
    "3x3, deep": (512, 72, 6, 7, 2, {"kernel_size": 3, "padding": 1}),
    "3x3, many rows": (16, 24, 280, 5, 1, {"kernel_size": 3, "padding": 1}),
    "3x3, stride 2": (32, 40, 13, 18, 1, {"kernel_size": 3, "padding": 1, "stride": 2}),
    "3x3, groups": (96, 96, 9, 14, 1, {"kernel_size": 3, "padding": 1, "groups": 3}),
    "1x1": (72, 136, 9, 14, 2, {"kernel_size": 1}),
    "1x1, many pixels": (16, 24, 130, 130, 1, {"kernel_size": 1}),
    "7x7, three channels": (3, 16, 21, 30, 1, {"kernel_size": 7, "padding": 3, "stride": 2}),
    "5x5, three channels, reflected": (3, 16, 9, 13, 1, {"kernel_size": 5, "padding": 2, "padding_mode": "reflect"}),
    "reflected": (16, 16, 9, 14, 2, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    "many streams": (16, 16, 1, 1, 40, {"kernel_size": 1}),
    "odd channels": (33, 65, 9, 13, 2, {"kernel_size": 3, "padding": 1}),
    "depthwise": (40, 40, 9, 13, 2, {"kernel_size": 3, "padding": 1, "groups": 40}),
    "depthwise, 5x5, stride 2": (24, 24, 11, 14, 1, {"kernel_size": 5, "padding": 2, "stride": 2, "groups": 24}),
    "depthwise, odd channels": (13, 13, 9, 14, 2, {"kernel_size": 3, "dilation": 2, "groups": 13}),
}
IN_EVERY_TYPE = ("3x3", "3x3, deep")
TYPES = ("float16", "bfloat16", "float32")
PARTS = ("convolutions", "bottlenecks", "frames", *TYPES)  # the latter: a network in that type


def run_part(part: str) -> None:
    """What the tools watch: together every kernel, in every type, with and without thresholds."""
    begin = time.perf_counter()
    torch.backends.cudnn.enabled = False  # PyTorch's other kernels are watched sooner than cuDNN's
    with without_libraries():
        others = {"convolutions": run_convolutions, "bottlenecks": run_bottlenecks, "frames": run_frames}
        for said in others[part]() if part in others else run_network(getattr(torch, part)):
            torch.cuda.synchronize()
            print(f"{time.perf_counter() - begin:.0f} s: {said}", flush=True)
    print(END, flush=True)


@contextlib.contextmanager
def without_libraries() -> Iterator[None]:
    """What cuDNN and cuBLAS compute in a dense frame is 0 here: the tools take minutes for their kernels.

    Convolutions of the dense network are the CPU's: racecheck itself fails in one of PyTorch's ("failed to handle a
    hardware exception", with nothing of ours in the process).
    """
    from deltafx.backends.cuda.cudnn import Convolution
    from deltafx.backends.cuda.dense import MatrixProduct
    from deltafx.ops.conv import CONVOLUTION

    def zeros(_: Any, into: Any) -> None:
        into.zero_()

    def convolution(x: Any, weight: Any, bias: Any, *how: Any) -> Any:
        bias = None if bias is None else bias.cpu().float()
        return dense(x.cpu().float(), weight.cpu().float(), bias, *how).to(x)

    dense = CONVOLUTION[2]
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.dict(CONVOLUTION, {2: convolution}))
        for kind in (Convolution, MatrixProduct):
            patches.enter_context(mock.patch.object(kind, "__call__", zeros))
        patches.enter_context(mock.patch.object(Convolution, "fused", return_value=None))
        yield


def run_convolutions() -> Iterator[str]:
    import deltafx

    for name, kind in product(CONVOLUTIONS, (*TYPES, "tf32")):
        if kind != "float16" and name not in IN_EVERY_TYPE:
            continue
        dtype = getattr(torch, kind.replace("tf32", "float32"))
        torch.backends.cudnn.allow_tf32 = kind == "tf32"
        channels, out, height, width, streams, how = CONVOLUTIONS[name]
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(channels, out, **how), nn.ReLU()).eval().to("cuda", dtype)
        options = {"cuda_graph": False}
        dm = deltafx.convert(model, threshold=0.1 if "deep" in name else 0.0, backend="cuda", options=options)
        frame = torch.randn(streams, channels, height, width).to("cuda", dtype)
        for step in range(2):  # in full, and a few pixels
            dm(frame)
            frame[-1, :, step : step + 3, step : step + 4] += 1
        run_forms(dm, dm.runtime.plans[0])
        yield f"{name}, {kind}"


def run_bottlenecks() -> Iterator[str]:
    """Blocks as in ResNet, also with a stride."""
    from torchvision.models.resnet import Bottleneck

    import deltafx

    torch.manual_seed(0)
    for stride, threshold in product((1, 2), (0.0, 0.1)):
        down = nn.Conv2d(256, 256, 1, stride)
        blocks = nn.Sequential(Bottleneck(256, 64), Bottleneck(256, 64, stride, down)).eval().cuda().half()
        dm = deltafx.convert(blocks, threshold=threshold, backend="cuda", options={"cuda_graph": False})
        frame = torch.randn(2, 256, 12, 17).cuda().half()
        for step in range(2):
            dm(frame)
            frame[-1, :, step : step + 3, step : step + 4] += 1
        yield f"stride {stride}, threshold {threshold}"


def run_frames() -> Iterator[str]:
    """Frames as cameras give them, whose rows are whole words of memory and pixels or not, through gates."""
    import deltafx
    from deltafx.gate import AUTO

    half = deltafx.Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    around = deltafx.InputGate(4, window=3, dilation=40, weak=0.5, reach=3, neighbours=2)
    for (label, gate), columns in product({"no gate": None, "auto": AUTO, "around": around}.items(), (72, 37)):
        model = nn.Conv2d(3, 8, 1).eval().cuda()
        options = {"cuda_graph": False}
        dm = deltafx.convert(model, backend="cuda", preprocess=half, input_gate=gate, options=options)
        frame = torch.randint(60, 180, (2, 30, columns, 3), dtype=torch.uint8).cuda()
        for step in range(3):
            dm(frame)
            frame[1, 4 * step : 4 * step + 8, 5:16] += 40
        yield f"{label}, {columns} columns"


def run_network(dtype: Any) -> Iterator[str]:
    import deltafx
    from tests.backends.network import network, pictures

    gate = deltafx.InputGate(6, window=5, noise=3, drift=10, weak=0.5, reach=2, neighbours=4)
    settings: tuple[dict[str, Any], ...] = ({}, {"threshold": 0.1, "input_gate": gate})
    for given in settings:
        options = {"cuda_graph": False, "profile": bool(given)}
        dm = deltafx.convert(network().to("cuda", dtype), backend="cuda", options=options, **given)
        for picture in pictures(3):
            dm(picture.to("cuda", dtype))
        yield f"{dtype}, {', '.join(given) or 'exact'}"
        run_forms(dm, dm.runtime.plans[0])
        yield "densely and at rest"


def run_forms(dm: Any, plan: Any) -> None:
    """The other forms of a captured frame, without the capture: the tools do not know graphs that choose."""
    from deltafx.backends.cuda.parts import Part, prepare
    from deltafx.frame_graph import FrameGraph

    part = Part(FrameGraph(dm, plan).inner, plan, many=0.0)
    prepare(part.calls, plan)
    part.dense()
    part.at_rest()


def run_tool(number: int, tool: str, part: str, seconds: float) -> Outcome:
    words = [program(), "--tool", tool, *QUICKLY, "--port", str(FIRST_PORT + number * PORTS)]
    words += () if tool == "initcheck" else ONLY_OURS
    words += [sys.executable, "-m", "tools.sanitize_cuda", "--run", part]
    # Blocks of the caching allocator are larger than what was asked for, and were written to before.
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **({} if tool == "racecheck" else {NO_CACHE: "1"})}
    said, took = said_by(words, surroundings, seconds)
    outcome = judge(tool, part, said)
    outcome.seconds = took
    return outcome


def said_by(words: list[str], surroundings: dict[str, str], seconds: float) -> tuple[str, float]:
    """What a program and those that it starts say within so many seconds, and how many it took."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(words, env=surroundings, start_new_session=True, stdout=output, stderr=output)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read(), time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=600.0, help="that a part may take")
    parser.add_argument("--out", type=Path, help="a JSON file for what was found")
    parser.add_argument("--run", choices=PARTS, help="only run a part, without a tool")
    options = parser.parse_args()
    if options.run:
        run_part(options.run)
        return 0
    jobs = [(number, *job) for number, job in enumerate(product(options.tools, options.parts))]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(lambda job: run_tool(*job, options.seconds), jobs))
    for each in found:
        print(f"{each.tool}, {each.part}: {each.ours} in our kernels, {each.others} in others, {each.seconds:.0f} s")
        print("" if each.finished else f"  did not end; last: {each.last}\n", each.first, sep="", flush=True)
    if options.out:
        results = {
            **surroundings(),
            "device": torch.cuda.get_device_name(),
            "results": [asdict(each) for each in found],
        }
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(each.well for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
