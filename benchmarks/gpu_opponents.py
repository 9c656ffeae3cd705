"""The dense networks that a converted one is held against on a GPU: what people would otherwise run.

torch.compile takes long, and most of it on one processor. `compile_ahead` has several cases compiled at once by
processes of this module, which run nothing; the cases themselves then find the code in the cache on disk:

    python -m benchmarks.gpu_opponents resnet50:8:720x1280 fcn_resnet50:1:720x1280

max-autotune chooses between kernels of Triton and cuBLAS for each 1x1 convolution, with what follows it; other
convolutions stay cuDNN's. (Triton has 17 kernels for each, tried one convolution after the other, in more than four
minutes a network.) It is left out, and the result says so, where it takes longer than it is given.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental.optimization as fx_optimization
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.compile_worker.subproc_pool import SubprocPool
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks import gpu_networks
from benchmarks.gpu_networks import Case, Missing
from benchmarks.gpu_times import captured, milliseconds

COMPILED, TUNED = "torch.compile, CUDA graph", "torch.compile max-autotune, CUDA graph"
MAX_AUTOTUNE = {"max_autotune": True, "triton.cudagraphs": False, "max_autotune_conv_backends": "ATEN"}
AT_ONCE = 5  # processes that compile ahead


class TooLong(BaseException):
    """No Exception, which compilers catch."""


class Compiled(Exception):
    """Instead of running what was compiled."""


def folded(model: nn.Module) -> nn.Module:
    """With batch norms in the convolutions, as everyone who serves a network does it; as it is, if it has no graph."""
    try:
        return fx_optimization.fuse(model)
    except Exception:  # torch.fx's own, of many kinds
        return model


def on_device(case: Case, frame: Tensor) -> nn.Module:
    """As all opponents run it; `frame` is one of those that it is given."""
    model = folded(case.model).cuda().to(frame.dtype).to(memory_format=torch.channels_last)  # folded in float32
    return traced(model, frame) if case.copies else model


def traced(model: nn.Module, frame: Tensor) -> nn.Module:
    """What it computes of a frame's pixels alone, without its arithmetic on sizes; as it is, if that cannot be told."""
    try:
        return make_fx(torch.jit.freeze(torch.jit.trace(model.eval(), frame)))(frame)
    except Exception as error:  # PyTorch's own, of many kinds
        print(f"not traced: {error}", file=sys.stderr)
        return model


def dtype_of(case: str) -> torch.dtype:
    return torch.float32 if "tf32" in case.split(":")[3:] else torch.float16


def use_tensor_cores() -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True


def dense_times(
    dense: nn.Module, frame: Tensor, compiles: bool, tune_seconds: float
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The times of each form, and why others are left out. `tune_seconds`: the most for max-autotune, 0 for none."""
    found, left_out = {"eager": milliseconds(lambda: dense(frame), 30)}, {}
    forms: dict[str, Callable[[], Callable]] = {"CUDA graph": lambda: dense}
    if compiles:
        forms[COMPILED] = lambda: torch.compile(dense)
    if tune_seconds:
        forms[TUNED] = lambda: torch.compile(dense, options=MAX_AUTOTUNE)
    for name, form in forms.items():
        try:
            torch._dynamo.reset()
            run = form()
            with within(tune_seconds if name == TUNED else 0):
                run(frame)
            found[name] = milliseconds(captured(lambda run=run: run(frame)))
        except TooLong:
            stop_workers()
            left_out[name] = f"it was not compiled after {tune_seconds:.0f} s"
        except Exception as error:
            left_out[name] = (str(error).splitlines() or [type(error).__name__])[0][:200]
    for name, reason in left_out.items():
        print(f"dense, {name}: {reason}", file=sys.stderr)
    return found, left_out


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TooLong after so many; 0 is no limit. In the main thread only."""

    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # again, where what was running swallowed it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def stop_workers() -> None:
    """They would go on with what nobody waits for, beside what is measured next, and so would a shutdown alone."""
    from torch._inductor import async_compile

    torch._dynamo.reset()
    for pool in async_compile._pool_set:
        if isinstance(pool, SubprocPool):
            workers = children(pool.process.pid)
            for pid in (pool.process.pid, *workers):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    async_compile.shutdown_compile_workers()


def children(pid: int) -> list[int]:
    """Of a process, on Linux."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def compile_ahead(cases: Sequence[str], data: Path, seconds: float, at_once: int = AT_ONCE) -> float:
    """Compile cases side by side, for so many seconds at most; returns how many it took."""
    begin = time.perf_counter()
    threads = max(2, len(os.sched_getaffinity(0)) // at_once)
    surroundings = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    words = [sys.executable, "-m", "benchmarks.gpu_opponents", "--data", str(data)]
    started = [
        subprocess.Popen([*words, *cases[k::at_once]], env=surroundings, start_new_session=True)
        for k in range(min(at_once, len(cases)))
    ]
    for each in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            each.wait(max(0.0, seconds - (time.perf_counter() - begin)))
    for each in started:
        if each.poll() is None:
            os.killpg(each.pid, signal.SIGKILL)  # its workers too
            each.wait()
    return time.perf_counter() - begin


def compile_only(graph_module: Any, inputs: Any) -> Any:
    """A backend of torch.compile that compiles as the usual one and runs nothing: others beside it would be timed."""
    from torch._inductor.compile_fx import compile_fx

    compile_fx(graph_module, inputs)
    raise Compiled


@torch.no_grad()
def compile_case(case: str, data: Path) -> None:
    network, batch, size, *_ = case.split(":")
    frame = torch.zeros(int(batch), 3, *map(int, size.split("x"))).cuda().to(dtype_of(case))
    frame = frame.contiguous(memory_format=torch.channels_last)
    dense = on_device(gpu_networks.load(network, data), frame)
    torch._dynamo.reset()
    try:
        torch.compile(dense, backend=compile_only)(frame)
    except BackendCompilerFailed as error:
        if not isinstance(error.inner_exception, Compiled):
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="CASE")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with NanoDet's ONNX file")
    options = parser.parse_args()
    use_tensor_cores()
    for case in options.cases:
        begin = time.perf_counter()
        try:
            compile_case(case, options.data)
        except (Missing, RuntimeError) as reason:
            print(f"{case}: {str(reason).splitlines()[0]}", file=sys.stderr)
        print(f"{case}: compiled ahead in {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
