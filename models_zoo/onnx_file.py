"""Networks from ONNX files, through onnx2torch."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from torch import nn


def fixed_size(path: str | PathLike[str]) -> tuple[int, int] | None:
    """Height and width of the frames that the network in an ONNX file says it takes, None where any will do."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {constant.name for constant in graph.initializer}
    first = next((each for each in graph.input if each.name not in constants), None)
    sizes = [size.dim_value for size in first.type.tensor_type.shape.dim] if first is not None else []
    return (sizes[2], sizes[3]) if len(sizes) == 4 and min(sizes[2:]) > 0 else None


def read_onnx(path: str | PathLike[str]) -> nn.Module:
    """The network in an ONNX file, in evaluation mode, for any number of streams.

    What exporters leave in the way is cleaned: initializers that are listed as inputs, and a fixed batch. Raises
    FileNotFoundError, ImportError without onnx2torch, and ValueError where the file cannot be read or converted.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx2torch import convert
    except ImportError as error:
        raise ImportError(
            "ONNX files need onnx2torch: pip install 'deltafx[demo]' (or: pip install onnx2torch)"
        ) from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        model = onnx.load(str(path))
    except DecodeError as error:
        raise ValueError(f"{path}: not an ONNX file ({error})") from error
    graph = model.graph
    constants = {constant.name for constant in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    for each in (*graph.input, *graph.output):
        for size in each.type.tensor_type.shape.dim[:1]:
            size.dim_param = "streams"
    try:
        return convert(model).eval()
    except NotImplementedError as error:
        raise ValueError(f"{path}: onnx2torch cannot convert it: {error}") from error
