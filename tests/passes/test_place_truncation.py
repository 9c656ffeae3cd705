import pytest
import torch
from torch import nn

import deltafx
from deltafx import InputGate
from deltafx.passes import place_truncation
from deltafx.truncation import Threshold
from tests.passes.helpers import apply, batch_norm, before, frame, module_at, net, operators


def network() -> nn.Module:
    def forward(self, x):
        y = self.relu(self.norm(self.conv(x)))
        z = torch.cat([y, self.pool(y)], 1)[:, 1:].permute(0, 1, 3, 2)
        return self.head(z.flatten(1)), torch.cumprod(z, 1)

    parts = {"conv": nn.Conv2d(3, 4, 3), "norm": batch_norm(4), "relu": nn.ReLU(), "pool": nn.MaxPool2d(3, 1, 1)}
    return net(forward, **parts, head=nn.Linear(7 * 63, 5))


def thresholds(**arguments) -> dict[str, Threshold | None]:
    graph_module, _ = apply(place_truncation, network(), frame(), **arguments)
    points = {path: module_at(graph_module, path).truncation for path in operators(graph_module)}
    return {path: point and point.threshold for path, point in points.items()}


def test_points_are_the_nodes_that_compute():
    placed = thresholds(threshold=0.5)
    assert [path for path, threshold in placed.items() if threshold] == ["conv", "pool", "head", "cumprod"]
    assert [path for path, threshold in placed.items() if not threshold] == ["cat", "getitem", "permute", "flatten"]
    assert placed["conv"] == Threshold(0.5)


def test_counts_inputs_with_a_gate_and_points():
    assert apply(place_truncation, network(), frame())[1] == 4
    assert apply(place_truncation, network(), frame(), input_gate=InputGate(3))[1] == 5


def test_gate_stands_at_the_input():
    graph_module, _ = apply(place_truncation, network(), frame(), input_gate=InputGate(3))
    assert module_at(graph_module, "dense_to_delta.x").gate == InputGate(3)


@pytest.mark.parametrize("name", ["conv", "norm", "relu"])
def test_any_name_of_a_fused_node(name):
    placed = thresholds(threshold={name: deltafx.absolute(0.3)})
    assert placed["conv"] == deltafx.absolute(0.3)
    assert placed["pool"] == placed["head"] == Threshold(0.0)


def test_other_nodes_keep_the_default_of_the_mode():
    placed = thresholds(threshold={"pool": 0.7}, mode="balanced")
    assert placed["pool"] == Threshold(0.7)
    assert placed["conv"] == Threshold(0.05)  # it reads the input


def test_a_mode_withholds_less_where_the_input_is_read_and_results_leave():
    placed = thresholds(mode="balanced")
    assert placed["conv"] == placed["head"] == Threshold(0.05)
    assert placed["pool"] == Threshold(0.2)


def test_norm():
    graph_module, _ = apply(place_truncation, network(), frame(), norm="max")
    assert module_at(graph_module, "conv").truncation.norm == "max"


def test_two_names_of_one_node():
    with pytest.raises(deltafx.ConvertError, match="threshold: conv and relu are one node, conv; give one of them"):
        deltafx.convert(network(), threshold={"conv": 0.1, "relu": 0.2})


def test_unknown_name():
    with pytest.raises(
        deltafx.ConvertError, match=r"unknown truncation point in threshold 'pol'. Did you mean 'pool'\?"
    ):
        deltafx.convert(network(), threshold={"pol": 0.1})


def test_name_of_what_only_moves_data():
    with pytest.raises(
        deltafx.ConvertError, match=r"in threshold 'cat'.* Known: conv, cumprod, head, norm, pool, relu"
    ):
        deltafx.convert(network(), threshold={"cat": 0.1})


def test_changed_settings_are_rewrites():
    graph_module, context = before(place_truncation, network())
    assert place_truncation(graph_module, context) == 4
    context.settings = before(place_truncation, network(), threshold=0.1)[1].settings
    assert place_truncation(graph_module, context) == 4
