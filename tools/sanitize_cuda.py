"""The CUDA kernels under NVIDIA's compute-sanitizer: memory that is not theirs, races, and memory never written.

    python -m tools.sanitize_cuda                    # memcheck, racecheck and initcheck, some minutes
    python -m tools.sanitize_cuda --tools initcheck --out sanitize.json

Errors in other kernels (PyTorch's, cuBLAS's, cuDNN's) are counted apart: initcheck finds some there. Exit code 1 where
there is one in ours. The program comes with the CUDA toolkit, or `pip install nvidia-cuda-sanitizer-api`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TOOLS = ("memcheck", "racecheck", "initcheck")
OURS = "deltafx"  # in the names of our kernels
FINDING = re.compile(r"^========= (Invalid|Uninitialized|Error:|Warning: Race|Barrier|Misaligned|Program hit)")
ONLY_OURS = ("--kernel-name", f"kernel_substring={OURS}")  # are watched; initcheck must see who writes first
NO_CACHE = "PYTORCH_NO_CUDA_MEMORY_CACHING"
LARGE = 8000  # pixels, above which a case takes minutes under the tools


@dataclass
class Outcome:
    """What a tool found in our kernels and in others, and whether the cases ran to their end."""

    tool: str
    ours: int
    others: int
    finished: bool
    first: str = ""  # finding in ours

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


def judge(tool: str, said: str) -> Outcome:
    """Whose kernels a report is about. What names no kernel (a call that failed) counts as ours."""
    ours, others = [], 0
    for block in blocks(said):
        in_a_kernel = re.search(r"\bat .*\+0x", block)
        if OURS in block or not in_a_kernel:
            ours.append(block)
        else:
            others += 1
    return Outcome(tool, len(ours), others, END in said, ours[0] if ours else "")


END = "every case ran"


def run_cases() -> None:
    """What the tools watch: every kernel, in every dtype, with and without thresholds, over frames that change."""
    import torch
    from torch import nn

    import deltafx
    from tests.backends.cuda.test_backend import CONVOLUTIONS
    from tests.backends.network import network, pictures

    torch.backends.cudnn.enabled = False  # its own findings would hide ours
    options = {"cuda_graph": False, "profile": True}
    for name, (channels, out, height, width, streams, how) in CONVOLUTIONS.items():
        if height * width > LARGE:
            continue
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(channels, out, **how), nn.ReLU()).eval().cuda().half()
        dm = deltafx.convert(model, threshold=0.1 if "deep" in name else 0.0, options=options)
        frame = torch.randn(streams, channels, height, width, device="cuda").half()
        for step in range(3):
            dm(frame)
            frame[-1, :, step : step + 3, step : step + 4] += 1
        torch.cuda.synchronize()
        print(name, flush=True)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for settings in ({}, {"mode": "balanced"}):
            dm = deltafx.convert(network().to("cuda", dtype), options=options, **settings)
            for picture in pictures(4):
                dm(picture.to("cuda", dtype))
            torch.cuda.synchronize()
            print(dtype, settings, flush=True)
            run_forms(dm, dm.runtime.plans[0])
            torch.cuda.synchronize()
            print(dtype, settings, "densely and at rest", flush=True)
    print(END, flush=True)


def run_forms(dm: Any, plan: Any) -> None:
    """The other forms of a captured frame, without the capture: the tools do not know graphs that choose."""
    from deltafx.backends.cuda.parts import Part
    from deltafx.frame_graph import FrameGraph

    part = Part(FrameGraph(dm, plan).inner, plan, many=0.0)
    part.prepare()
    part.dense()
    part.at_rest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--out", type=Path, help="a JSON file for what was found")
    parser.add_argument("--cases", action="store_true", help="only run the cases, without a tool")
    options = parser.parse_args()
    if options.cases:
        run_cases()
        return 0
    found = []
    for tool in options.tools:
        words = [program(), "--tool", tool, *(() if tool == "initcheck" else ONLY_OURS)]
        words += [sys.executable, "-m", "tools.sanitize_cuda", "--cases"]
        # Blocks of the caching allocator are larger than what was asked for, and were written to before.
        surroundings = {**os.environ, **({} if tool == "racecheck" else {NO_CACHE: "1"})}
        done = subprocess.run(words, capture_output=True, text=True, env=surroundings, check=False)
        said = done.stdout + done.stderr
        outcome = judge(tool, said)
        found.append(outcome)
        print(f"{tool}: {outcome.ours} in our kernels, {outcome.others} in others\n{outcome.first}", flush=True)
        if not outcome.finished:
            print(f"the cases did not end: {said[-800:]}", flush=True)
    if options.out:
        options.out.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return 0 if all(each.well for each in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
