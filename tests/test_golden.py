"""The rewritten graphs of three networks, as text: a refactoring shows here what it moved.

To accept what has changed: UPDATE_GOLDEN=1 python -m pytest tests/test_golden.py, and read the difference before it is
committed.
"""

from __future__ import annotations

import difflib
import os
import pathlib
from typing import Any

import pytest
import torchvision
from torch import fx

import deltafx
from deltafx.node import DeltaNode, SliceOf

GOLDEN = pathlib.Path(__file__).parent / "golden"
NETWORKS = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5")


def describe(graph_module: fx.GraphModule) -> str:
    """One line for each node: path, operator, inputs, and for delta nodes where the buffer is and what was fused."""
    return "".join(f"{line_of(graph_module, node)}\n" for node in graph_module.graph.nodes)


def line_of(graph_module: fx.GraphModule, node: fx.Node) -> str:
    inputs = fx.node.map_arg((node.args, node.kwargs), lambda source: Path(source.meta["path"]))
    arguments = [repr(value) for value in inputs[0]] + [f"{name}={value!r}" for name, value in inputs[1].items()]
    line = f"{node.meta['path']} = {operator_of(graph_module, node)}({', '.join(arguments)})"
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(module, DeltaNode):
        return line
    line += f" in {module.storage.path}" if isinstance(module.storage, SliceOf) else f" {module.storage}"
    return line + (f" from {', '.join(module.fused_from)}" if len(module.fused_from) > 1 else "")


def operator_of(graph_module: fx.GraphModule, node: fx.Node) -> str:
    if node.op != "call_module":
        return getattr(node.target, "__name__", str(node.target)) if node.op.startswith("call") else node.op
    module = graph_module.get_submodule(str(node.target))
    return module.operator if isinstance(module, DeltaNode) else type(module).__name__


class Path(str):
    """Shown without quotes, unlike an argument that is a string."""

    def __repr__(self) -> str:
        return str(self)


@pytest.mark.parametrize("name", NETWORKS)
def test_rewritten_graph(name: str) -> None:
    network: Any = getattr(torchvision.models, name)()
    text = describe(deltafx.convert(network.eval(), backend="reference"))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    golden = path.read_text() if path.exists() else ""
    if text != golden:
        difference = difflib.unified_diff(
            golden.splitlines(), text.splitlines(), str(path.name), "now", lineterm="", n=1
        )
        pytest.fail(
            f"the rewritten graph of {name} is another one. If it should be: "
            f"UPDATE_GOLDEN=1 python -m pytest tests/test_golden.py\n" + "\n".join(difference),
            pytrace=False,
        )
