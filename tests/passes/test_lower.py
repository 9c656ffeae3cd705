from torch import nn

from deltafx.backends import backend_for
from deltafx.node import FrameModule
from deltafx.passes import lower
from deltafx.settings import Settings
from tests.passes.helpers import apply, frame, module_at


def test_every_leaf_module_gets_its_backend():
    graph_module, count = apply(lower, nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).eval(), frame())
    assert count == 4
    for node in graph_module.graph.find_nodes(op="call_module"):
        module = module_at(graph_module, node.meta["path"])
        assert isinstance(module, FrameModule)
        assert module.backend == backend_for(Settings())
