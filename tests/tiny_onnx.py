"""A small network as an ONNX file, with what exporters leave in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_tiny_onnx(path: Path, *, resizes: bool = False) -> Path:
    """Two convolutions, whose results are added; a fixed batch of 10, and initializers that are listed as inputs.

    With `resizes`, the sum is halved, resized to the input's size, which the graph computes, and joined to the input.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    generator = np.random.default_rng(0)
    weights = {
        "a": generator.standard_normal((8, 3, 3, 3)) / 5,
        "b": generator.standard_normal((8, 8, 3, 3)) / 8,
    }
    numbers = {"zero": [0], "two": [2], "four": [4]} if resizes else {}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    constants += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()]
    pads = {"pads": [1, 1, 1, 1]}
    last, channels = ("sum", 11) if resizes else ("y", 8)
    resizing = [
        helper.make_node("MaxPool", ["sum"], ["half"], name="MaxPool_0", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["x"], ["shape"], name="Shape_0"),
        helper.make_node("Slice", ["shape", "two", "four", "zero"], ["size"], name="Slice_0"),
        helper.make_node("Shape", ["half"], ["half_shape"], name="Shape_1"),
        helper.make_node("Slice", ["half_shape", "zero", "two", "zero"], ["front"], name="Slice_1"),
        helper.make_node("Concat", ["front", "size"], ["sizes"], name="Concat_0", axis=0),
        helper.make_node("Resize", ["half", "", "", "sizes"], ["large"], name="Resize_0", mode="linear"),
        helper.make_node("Concat", ["large", "x"], ["y"], name="Concat_1", axis=1),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a"], ["first"], name="Conv_0", **pads),
            helper.make_node("Relu", ["first"], ["positive"], name="Relu_0"),
            helper.make_node("Conv", ["positive", "b"], ["second"], name="Conv_1", **pads),
            helper.make_node("Add", ["second", "positive"], [last], name="Add_0"),
            *(resizing if resizes else []),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [10, 3, 32, 32])]
        + [helper.make_tensor_value_info(c.name, TensorProto.FLOAT, list(c.dims)) for c in constants],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10, channels, 32, 32])],
        constants,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
