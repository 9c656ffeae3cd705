"""What people would otherwise run on a CPU, ready to be timed: each takes one frame and computes the dense network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Frame = Any  # in the form that a side takes


class Missing(Exception):
    """Why an opponent is not there."""


@dataclass(frozen=True)
class Side:
    """`prepare` brings a frame [1, C, H, W] into the form that `run` takes; only `run` is timed."""

    run: Callable[[Frame], Any]
    prepare: Callable[[Tensor], Frame]


@dataclass(frozen=True)
class Dense:
    """A dense network. Detectors take a list of pictures (`listed`); `onnx` is the file it comes from, if any."""

    name: str
    model: nn.Module
    listed: bool = False
    onnx: Path | None = None

    def arguments(self, frame: Tensor) -> Any:
        return list(frame.unbind()) if self.listed else frame


def channels_last(dense: Dense, frame: Tensor) -> Any:
    return dense.arguments(frame.contiguous(memory_format=torch.channels_last))


def eager(dense: Dense, frame: Tensor, work: Path, threads: int) -> Side:
    model = copy.deepcopy(dense.model).to(memory_format=torch.channels_last)
    return Side(model, lambda x: channels_last(dense, x))


def compiled(dense: Dense, frame: Tensor, work: Path, threads: int) -> Side:
    import torch._inductor.config as inductor

    inductor.freezing = True
    model = torch.compile(copy.deepcopy(dense.model).to(memory_format=torch.channels_last), dynamic=False)
    try:
        model(channels_last(dense, frame))
    except Exception as error:
        raise Missing(f"torch.compile fails: {first_line(error)}") from error
    return Side(model, lambda x: channels_last(dense, x))


def exported(dense: Dense, frame: Tensor, work: Path) -> Path:
    if dense.onnx is not None:
        return dense.onnx
    path = work / f"{dense.name}.onnx"
    if not path.is_file():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                given = (dense.arguments(frame),)
                torch.onnx.export(dense.model, given, str(path), dynamo=False, opset_version=17)
        except Exception as error:
            raise Missing(f"it cannot be exported to ONNX: {first_line(error)}") from error
    return path


def as_array(dense: Dense, frame: Tensor) -> Any:
    return (frame[0] if dense.listed else frame).contiguous().numpy()


def onnx_runtime(dense: Dense, frame: Tensor, work: Path, threads: int) -> Side:
    try:
        import onnxruntime
    except ImportError as error:
        raise Missing("pip install 'deltafx[bench]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    path = exported(dense, frame, work)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return Side(
        lambda x: [torch.from_numpy(each) for each in session.run(None, {given.name: x})], lambda x: as_array(dense, x)
    )


def openvino(precision: str) -> Callable[[Dense, Tensor, Path, int], Side]:
    def make(dense: Dense, frame: Tensor, work: Path, threads: int) -> Side:
        try:
            import openvino as ov
        except ImportError as error:
            raise Missing("pip install 'deltafx[bench]'") from error
        capabilities = torch.cpu.get_capabilities()
        if precision == "bf16" and not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
            raise Missing("the processor does not multiply bfloat16")
        core = ov.Core()
        model = core.read_model(exported(dense, frame, work))
        model.reshape({model.inputs[0]: list(as_array(dense, frame).shape)})
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(model, "CPU", options).create_infer_request()

        def run(x: Any) -> list[Tensor]:
            found = request.infer([x], share_inputs=True, share_outputs=True)
            return [torch.from_numpy(each) for each in found.values()]

        return Side(run, lambda x: as_array(dense, x))

    return make


OPPONENTS: dict[str, Callable[[Dense, Tensor, Path, int], Side]] = {
    "OpenVINO f32": openvino("f32"),
    "ONNX Runtime": onnx_runtime,
    "torch.compile": compiled,
    "eager": eager,
    "OpenVINO bf16": openvino("bf16"),
}
FLOAT32 = tuple(name for name in OPPONENTS if "bf16" not in name)  # the best of these is what we are held against


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
