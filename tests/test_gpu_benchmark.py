"""The GPU benchmark, on a CPU that passes for a GPU: what it writes, not how long anything takes."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import async_compile
from torch._inductor.compile_worker.subproc_pool import SubprocPool

import deltafx
from benchmarks import gpu, gpu_figures, gpu_networks, gpu_opponents, gpu_table, state
from benchmarks.gpu_clip import pack, unpack
from deltafx.scene import scene
from deltafx.testing import force_masks


class Clock:
    """An event; every call takes 2 ms."""

    now = 0.0

    def __init__(self, enable_timing: bool):
        pass

    def record(self) -> None:
        Clock.now += 2
        self.at = Clock.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Clock) -> float:
        return end.at - self.at


@pytest.fixture
def gpu_like(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """`run(*words)` is `python -m benchmarks.gpu`; it writes to tmp_path / "cuda"."""
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Clock)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch, "float16", torch.float32)
    monkeypatch.setattr(gpu_opponents, "captured", lambda call: call)
    monkeypatch.setattr(gpu, "launches", lambda call: 7)
    monkeypatch.setattr(gpu, "alone", gpu.measured)
    monkeypatch.setattr(gpu_networks, "load", lambda name, data: gpu_networks.Case(network(name)))

    def run(*words: Any) -> Any:
        out = tmp_path / "cuda"
        monkeypatch.setattr(sys, "argv", ["gpu", "--no-compile", "--out", str(out), *map(str, words)])
        gpu.main()
        return out

    return run


def network(name: str) -> nn.Module:
    if name == "none":
        raise gpu_networks.Missing("pip install none")
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 1, 1)).eval()


def test_every_case_is_a_file_and_is_not_measured_again(gpu_like: Any, capsys: pytest.CaptureFixture) -> None:
    words = ("--shares", "nothing", "5 %", "all", "--cases", "tiny:2:64x96", "none:1:64x96", "tiny:1:64x96:tf32")
    out = gpu_like(*words)
    assert sorted(path.name for path in out.iterdir()) == ["tiny_1_64x96_tf32.json", "tiny_2_64x96.json"]
    assert "none:1:64x96: pip install none" in capsys.readouterr().err
    result = json.loads((out / "tiny_2_64x96.json").read_text())
    nothing, some, everything = result["converted"].values()
    assert (nothing["share"], everything["share"]) == (0, 1)
    assert nothing["bytes"] == 0 < some["bytes"] < everything["bytes"]
    assert 0.05 < some["share"] < 0.5
    assert some["times_faster"] == result["dense"]["eager"]["p50"] / some["p50"] == 1
    assert some["distance_to_floor"] == pytest.approx(1 / some["share"])
    assert some["tflops"] == pytest.approx(2 * some["macs"] / 2e-3 / 1e12)
    assert some["of_peak_tflops"] == pytest.approx(some["tflops"] / 494.7)  # which float16 is on this CPU
    assert result["relative_difference"] < 1e-6
    assert result["not_compiled"] == []
    assert 1 <= result["state_bytes"] / result["output_bytes"] < 1.15
    before = (out / "tiny_2_64x96.json").stat().st_mtime_ns
    gpu_like(*words)
    assert (out / "tiny_2_64x96.json").stat().st_mtime_ns == before
    text = out.with_suffix(".md").read_text()
    assert "## tiny, batch 2, 64x96, float16" in text
    assert "## tiny, batch 1, 64x96, tf32" in text


def test_a_case_has_a_process_of_its_own(tmp_path: Path) -> None:
    options = argparse.Namespace(data=tmp_path)
    with pytest.raises(gpu_networks.Missing, match="onnx"):
        gpu.alone("nanodet:1:64x96", options)


def test_the_bytes_of_a_frame_in_full(gpu_like: Any) -> None:
    dm = deltafx.convert(network("tiny"))
    dm(torch.randn(1, 3, 8, 8))
    convolutions = 4 * (3 * 8 * 9 + 8) + 4 * (8 * 4 * 9 + 4)
    assert gpu_figures.least_bytes(dm) == convolutions + 4 * (2 * 8 * 16 + 3 * 64) + 4 * (2 * 4 * 16 + 8 * 16)


def test_what_state_takes() -> None:
    row = state.measure("tiny", network("tiny"), 8, 8, {})
    pixels = 64, 16, 16  # of the input and the two convolutions
    outputs = 2 * (3 * 64 + 8 * 16 + 4 * 16)
    assert row["outputs"] == outputs
    assert row["value"] == outputs + sum(pixels)  # and a mask each
    # The first convolution keeps the sum of its differences, its bias and what it sent last, the other its bias, and
    # the output the sum of what it was sent.
    assert row["difference"] == sum(pixels) + 2 * (3 * 64 + 3 * 8 * 16 + 4 * 16 + 4 * 16)


def test_a_clip_with_its_gate(gpu_like: Any, tmp_path: Any) -> None:
    frames = np.stack(list(scene(7, 64, 96, noise=1)))
    pack(frames, tmp_path / "clip.npz")
    assert np.array_equal(unpack(tmp_path / "clip.npz"), frames)
    out = gpu_like("--clip", tmp_path / "clip.npz", "--cases", "tiny:1:64x96:clip")
    result = json.loads((out / "tiny_1_64x96_clip.json").read_text())
    assert list(result["converted"]) == ["balanced", "fast", "exact"]
    exact, balanced = result["converted"]["exact"], result["converted"]["balanced"]
    assert exact["relative_error"] < 1e-6 < balanced["relative_error"]
    assert exact["gate"] == "None"
    assert balanced["update_rate"] < exact["update_rate"]
    assert "balanced: " in out.with_suffix(".md").read_text()


def test_the_plot(gpu_like: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    out = gpu_like("--shares", "5 %", "all", "--cases", "tiny:1:64x96")
    monkeypatch.setattr(sys, "argv", ["gpu_table", str(out)])
    gpu_table.main()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.gate = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gates_can_keep_their_decision(backend: str) -> None:
    dm = deltafx.convert(Gated().eval(), threshold={"gate": 0.5}, backend=backend)
    frame, mask = torch.randn(1, 3, 16, 16), torch.zeros(16, 16)
    mask[:4, :4] = 1
    for gates in (True, False):
        with force_masks(dm, mask, gates=gates):
            dm(frame)
            dm(frame + 0.01)
            rates = {node.path: node.update_rate for node in deltafx.report(dm).nodes}
        assert rates["conv"] == 1 / 16
        assert rates["gate"] == (1 if gates else 0)


def test_what_is_compiled_ahead_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for kind in (torch.Tensor, nn.Module):
        monkeypatch.setattr(kind, "cuda", lambda self: self)
    monkeypatch.setattr(gpu_opponents, "dtype_of", lambda case: torch.float32)
    monkeypatch.setattr(gpu_networks, "load", lambda name, data: gpu_networks.Case(network(name)))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    gpu_opponents.compile_case("tiny:2:16x24", tmp_path)
    found = counters["aot_autograd"]["autograd_cache_hit"]
    with torch.no_grad():
        frame = torch.randn(2, 3, 16, 24).contiguous(memory_format=torch.channels_last)
        dense = gpu_opponents.on_device(gpu_networks.Case(network("tiny")), frame)
        torch._dynamo.reset()
        assert torch.allclose(torch.compile(dense)(frame), dense(frame), atol=1e-5)
    assert counters["aot_autograd"]["autograd_cache_hit"] == found + 1


class OnTheHost(nn.Module):
    """As ONNX files are: sizes are tensors, which are computed with in every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = (torch.tensor(x.shape)[2:] * torch.tensor([2, 2])).tolist()
        return nn.functional.interpolate(x.relu(), size)


def test_what_computes_on_the_host_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "cuda", lambda self: self)
    frame = torch.randn(1, 3, 16, 24)
    with torch.no_grad():
        dense = gpu_opponents.on_device(gpu_networks.Case(OnTheHost().eval(), copies=True), frame)
        assert torch.equal(dense(frame), OnTheHost()(frame))
    assert isinstance(dense, torch.fx.GraphModule)
    called = [str(node.target) for node in dense.graph.nodes if node.op == "call_function"]
    assert called == ["aten.relu.default", "aten.upsample_nearest2d.default"]


def test_cases_are_compiled_side_by_side_and_not_waited_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/sleep")  # which takes none of the words that follow
    assert gpu_opponents.compile_ahead(["a", "b", "c"], Path(), 20) < 10
    sleeping: list[subprocess.Popen] = []
    popen = subprocess.Popen

    def sleep(words: Any, **kwargs: Any) -> subprocess.Popen:
        sleeping.append(popen(["/bin/sleep", "600"], **kwargs))
        return sleeping[-1]

    monkeypatch.setattr(subprocess, "Popen", sleep)
    gpu_opponents.compile_ahead(["a", "b", "c"], Path(), 0.5, at_once=2)
    assert [each.returncode for each in sleeping] == [-signal.SIGKILL] * 2


def test_what_takes_too_long_is_left_out_with_the_reason(gpu_like: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(model: nn.Module, **options: Any) -> Any:
        def run(frame: torch.Tensor) -> None:
            while options:
                with contextlib.suppress(Exception):  # as compilers do
                    time.sleep(0.01)

        return run

    monkeypatch.setattr(torch, "compile", compile)
    frame = torch.randn(1, 3, 16, 24)
    times, left_out = gpu_opponents.dense_times(network("tiny"), frame, compiles=True, tune_seconds=0.3)
    assert list(times) == ["eager", "CUDA graph", gpu_opponents.COMPILED]
    assert left_out == {gpu_opponents.TUNED: "it was not compiled after 0 s"}
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


class Pool(SubprocPool):
    def __init__(self, process: subprocess.Popen):
        self.process = process

    def shutdown(self) -> None:
        pass


def test_workers_of_a_compiler_are_ended_in_the_middle_of_their_work() -> None:
    words = [sys.executable, "-c", "import os, time; os.fork(); os.write(1, b'here\\n'); time.sleep(60)"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert [started.stdout.readline() for _ in range(2)] == ["here\n"] * 2
        (worker,) = gpu_opponents.children(started.pid)
        async_compile._pool_set.add(Pool(started))
        gpu_opponents.stop_workers()
        assert started.wait(10) == -signal.SIGKILL
        assert started.stdout.read() == ""  # which waits for all that could still write
    assert worker != started.pid
    assert not async_compile._pool_set


def test_options_of_max_autotune_are_known() -> None:
    torch.compile(network("tiny"), options=gpu_opponents.MAX_AUTOTUNE)


def test_no_case_is_begun_too_late(gpu_like: Any, capsys: pytest.CaptureFixture) -> None:
    out = gpu_like("--seconds", -1, "--cases", "tiny:1:64x96")
    assert not list(out.iterdir())
    assert "tiny:1:64x96: not begun" in capsys.readouterr().err


def test_cases_name_networks_that_there_are() -> None:
    from torchvision import models

    names = {case.split(":")[0] for case in gpu.CASES}
    assert names - set(models.list_models()) == set(gpu_networks.NETWORKS) - {"efficientnet_b0"}
    assert set(gpu.HEADLINES) <= set(gpu.CASES)


class Joined(nn.Module):
    """A concatenation of which both parts are written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(3, channels, 3, padding=1) for channels in (8, 4))
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([part(x) for part in self.parts], 1))


@torch.no_grad()
def test_the_parts_of_a_concatenation_count_once() -> None:
    dm = deltafx.convert(Joined().eval(), backend="reference")
    dm(torch.rand(1, 3, 8, 10))
    (plan,) = dm.runtime.plans
    (joined,) = [leaf for state in plan.nodes.values() for leaf in state.leaves if leaf.shape[1] == 12]
    assert joined.aliased
    assert gpu_figures.output_bytes(dm, plan) == 4 * 8 * 10 * (3 + 12 + 2)
