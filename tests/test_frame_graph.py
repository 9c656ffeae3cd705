"""What is taken apart for a CUDA graph; the graph itself needs a device (tests/backends/cuda)."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, fx, nn

import deltafx
from deltafx.frame_graph import EAGER_FRAMES, FrameGraph, NotCaptured, frame_graph


class Resized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.conv(x)
        z = nn.functional.interpolate(y, size=x.shape[-2:])
        return OrderedDict(out=z, both=[y, z])


def taken_apart(captured: bool = True) -> FrameGraph:
    dm = deltafx.convert(Resized().eval(), backend="reference")
    dm(torch.rand(2, 3, 12, 16))
    plan = dm.runtime.plans[0]
    for state in plan.nodes.values():
        state.kernel.captured = captured
    return FrameGraph(dm, plan)


def test_shape_arithmetic_is_done_once_and_outputs_are_put_together_in_every_frame() -> None:
    graph = taken_apart()
    assert len(graph.entering) == 1
    assert [module.path for module, _ in graph.inner] == ["conv", "interpolate"]
    assert torch.Size([12, 16]) in graph.values.values()
    assert [node.target for node, _ in graph.leaving][-2:] == [OrderedDict, "output"]


def test_lists_that_are_returned_are_ordinary_ones() -> None:
    graph = taken_apart()
    results = {node: graph.values.get(node, torch.ones(1)) for node, _ in graph.leaving}
    _, step = graph.leaving[-2]
    assert type(step(results)["both"]) is list


def test_a_node_that_is_looked_at_runs_by_itself() -> None:
    graph = taken_apart()
    assert graph.fits_the_frame()
    module, _ = graph.inner[0]
    hook = module.register_forward_hook(lambda *args: None)
    assert not graph.fits_the_frame()
    hook.remove()
    assert graph.fits_the_frame()


def test_what_was_captured_is_given_up_once_a_frame_runs_node_by_node() -> None:
    graph = taken_apart()
    plan, dm = graph.plan, fx.GraphModule({}, fx.Graph())
    plan.frame, plan.captures, plan.frame_graph = EAGER_FRAMES, True, graph
    assert frame_graph(dm, plan) is graph
    plan.captures = False
    assert frame_graph(dm, plan) is None
    plan.captures = True
    assert plan.frame_graph is None


def test_a_kernel_that_waits_is_not_captured() -> None:
    with pytest.raises(NotCaptured, match="conv"):
        taken_apart(captured=False)
