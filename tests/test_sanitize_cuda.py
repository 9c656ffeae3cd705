"""Whose errors are found; the tools themselves need a GPU."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from deltafx.ops.conv import CONVOLUTION, Conv
from tools import sanitize_cuda
from tools.sanitize_cuda import END, judge, said_by

OURS = """========= COMPUTE-SANITIZER
3x3
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void deltafx::cuda::<unnamed>::partial_kernel<float>(deltafx::cuda::Reduce)+0x50
=========     by thread (0,0,0) in block (1,0,0)
=========     Address 0x7f0000000000
=========
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::reduce_kernel<512, 1>(T1)+0x50
=========     by thread (0,0,0) in block (1,0,0)
"""
CALL = """========= Program hit cudaErrorInvalidValue (error 1) due to "invalid argument".
=========     Saved host backtrace up to driver entry point at error
"""


def test_errors_in_kernels_of_others_are_counted_apart():
    found = judge("initcheck", "part", f"{OURS}\n{END}\n========= ERROR SUMMARY: 2 errors\n")
    assert (found.ours, found.others, found.finished, found.well) == (1, 1, True, False)
    assert "partial_kernel" in found.first
    assert "at::native" not in found.first


def test_of_a_part_that_an_error_ended_that_error_is_told_and_not_what_explains_it() -> None:
    said = "1 s: 1x1\n2 s: 3x3\ntorch.AcceleratorError: CUDA error: too large\nSearch for `cudaErrorX' to know more.\n"
    assert judge("racecheck", "part", said).last == "after 3x3: torch.AcceleratorError: CUDA error: too large"
    assert judge("racecheck", "part", said.replace("2 s: 3x3\ntorch.", "2 s: 3x3\n")).last.startswith("after 3x3: A")
    assert judge("racecheck", "part", "1 s: 1x1\n2 s: 3x3\n").last == "2 s: 3x3"


def test_races_of_others_are_not_ours():
    race = "========= Error: Race reported between Write access at {0}+0x10 and Read access at {0}+0x20 [4 hazards]\n"
    assert judge("racecheck", "part", race.format("void at::native::scan_kernel<float>(T1)") + END).ours == 0
    assert judge("racecheck", "part", race.format("void deltafx::cuda::convolve_kernel<Half>(Conv)") + END).ours == 1


def test_a_call_that_fails_is_ours():
    assert judge("memcheck", "part", CALL + END).ours == 1


def test_cases_that_did_not_end_are_no_success():
    assert not judge("memcheck", "part", "========= ERROR SUMMARY: 0 errors").well
    assert judge("memcheck", "part", f"{END}\n========= ERROR SUMMARY: 0 errors").well


def test_what_takes_too_long_is_ended_with_all_that_it_started():
    child = "import os, time; print(os.getpid(), flush=True); os.fork(); os.write(1, b'here\\n'); time.sleep(600)"
    said, took = said_by([sys.executable, "-c", child], dict(os.environ), 1.0)
    assert said.split()[1:] == ["here", "here"]
    assert took < 30
    outcome = judge("memcheck", "part", said)
    assert (outcome.finished, outcome.last) == (False, "here")


def test_every_tool_runs_every_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho $*\n[ $2 = racecheck ] || echo {END}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(sanitize_cuda, "program", lambda: str(tool))
    monkeypatch.setattr(sanitize_cuda.torch.cuda, "get_device_name", lambda: "a GPU")
    out = tmp_path / "found.json"
    words = ["--tools", "racecheck", "initcheck", "--parts", "float16", "float32", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["sanitize_cuda", *words])
    assert sanitize_cuda.main() == 1
    written = json.loads(out.read_text())
    assert written["device"] == "a GPU"
    found = written["results"]
    assert [(x["tool"], x["part"]) for x in found] == [
        (tool, part) for tool in ("racecheck", "initcheck") for part in ("float16", "float32")
    ]
    assert [x["finished"] for x in found] == [False, False, True, True]
    assert len({x["last"].split("--port ")[1].split()[0] for x in found[:2]}) == 2
    assert "--kernel-name" in found[0]["last"]
    assert capsys.readouterr().out.count("did not end") == 2


def test_dense_convolutions_are_the_cpus() -> None:
    pytest.importorskip("deltafx._cuda")
    torch.manual_seed(0)
    module = torch.nn.Conv2d(6, 8, 3, padding=1, groups=2).half()
    x = torch.randn(1, 6, 7, 5).half()
    want = module(x)
    before = dict(CONVOLUTION)
    with sanitize_cuda.without_libraries():
        got = Conv.from_module(module)(x)
        assert before != CONVOLUTION
    assert got.dtype == torch.float16
    torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)
    assert before == CONVOLUTION
