from torch import nn

from deltafx.node import DeltaNode, DenseToDelta
from deltafx.passes import assign_payload
from tests.passes.helpers import apply, assert_follows, clip, frame


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()


def test_value_is_what_nodes_are_made_with():
    assert apply(assign_payload, network(), frame())[1] == 0


def test_difference_for_every_edge():
    graph_module, count = apply(assign_payload, network(), frame(), payload="difference")
    senders = [module for module in graph_module.modules() if isinstance(module, (DeltaNode, DenseToDelta))]
    assert {module.payload for module in senders if module.path in ("0", "2", "dense_to_delta.input")} == {"difference"}
    assert count == 3
    assert_follows(network(), clip(), payload="difference")
