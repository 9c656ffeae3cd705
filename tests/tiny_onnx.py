"""A small network as an ONNX file, with what exporters leave in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_tiny_onnx(path: Path) -> Path:
    """Two convolutions, whose results are added; a fixed batch of 10, and initializers that are listed as inputs."""
    from onnx import TensorProto, helper, numpy_helper, save

    generator = np.random.default_rng(0)
    weights = {
        "a": generator.standard_normal((8, 3, 3, 3)) / 5,
        "b": generator.standard_normal((8, 8, 3, 3)) / 8,
    }
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    pads = {"pads": [1, 1, 1, 1]}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a"], ["first"], name="Conv_0", **pads),
            helper.make_node("Relu", ["first"], ["positive"], name="Relu_0"),
            helper.make_node("Conv", ["positive", "b"], ["second"], name="Conv_1", **pads),
            helper.make_node("Add", ["second", "positive"], ["y"], name="Add_0"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [10, 3, 32, 32])]
        + [helper.make_tensor_value_info(c.name, TensorProto.FLOAT, list(c.dims)) for c in constants],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10, 8, 32, 32])],
        constants,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
