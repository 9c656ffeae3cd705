"""Files for Model Explorer, read by the package itself."""

import json
import sys

import pytest

import deltafx
from deltafx.views.explore import METRICS
from tests.views.shown import in_parts, model, shown

explorer = pytest.importorskip("model_explorer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explore")
    deltafx.explore(shown(), folder)
    return folder


def graph_of(folder):
    (graph,) = json.loads((folder / "model.json").read_text())["graphs"]
    return graph


def test_the_graph_is_of_the_packages_own_form(folder):
    content = json.loads((folder / "model.json").read_text())
    builder = explorer.graph_builder
    assert set(content) <= set(builder.GraphCollection.__dataclass_fields__)
    for node in graph_of(folder)["nodes"]:
        builder.GraphNode(**node)
        for edge in node["incomingEdges"]:
            builder.IncomingEdge(**edge)


def test_nodes_are_nested_and_joined(folder):
    nodes = {node["id"]: node for node in graph_of(folder)["nodes"]}
    assert set(nodes) == set(deltafx.to_networkx(shown()))
    assert nodes["blocks.0.first"]["namespace"] == "blocks/0"
    assert nodes["blocks.0.first"]["label"] == "conv2d + relu"
    assert [edge["sourceNodeId"] for edge in nodes["blocks.0.second"]["incomingEdges"]] == ["blocks.0.first", "stem"]
    assert nodes["unknown"]["style"]["borderColor"]
    assert "style" not in nodes["stem"]
    assert all(edge["sourceNodeId"] in nodes for node in nodes.values() for edge in node["incomingEdges"])


def test_a_file_for_each_metric_with_the_reports_numbers(folder):
    report = deltafx.report(shown())
    assert {path.stem for path in folder.iterdir()} == {"model", *METRICS}
    read = {name: json.loads((folder / f"{name}.json").read_text())["delta graph"] for name in METRICS}
    for node in report.nodes:
        assert read["update_rate"]["results"][node.path]["value"] == pytest.approx(100 * node.update_rate)
        assert read["milliseconds"]["results"][node.path]["value"] == node.milliseconds
        assert read["macs"]["results"][node.path]["value"] == pytest.approx(node.macs / 1e6)
        assert read["state"]["results"][node.path]["value"] == pytest.approx(node.state_bytes / 1024)
    assert set(read["macs"]["results"]) <= {node["id"] for node in graph_of(folder)["nodes"]}


def test_the_package_serves_them(folder):
    config = explorer.config()
    config.add_model_from_path(str(folder / "model.json"))
    for metric in METRICS:
        config.add_node_data_from_path(str(folder / f"{metric}.json"))
    assert "model.json" in config.to_url_param_value()


def test_it_prints_the_command(tmp_path, capsys):
    explored = deltafx.explore(deltafx.report(in_parts()), tmp_path / "with space")
    assert capsys.readouterr().out == f"{explored.command}\n"
    assert explored.command.startswith("model-explorer '")
    assert explored.command.count(".json") == 1 + len(METRICS)


def test_a_metric_that_is_not_known_has_no_file(tmp_path):
    (tmp_path / "milliseconds.json").write_text("of an earlier run")
    explored = deltafx.explore(deltafx.convert(model()), tmp_path)
    assert explored.node_data == ()
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_explorer", None)
    with pytest.raises(ImportError, match=r"pip install 'deltafx\[explore\]'"):
        deltafx.explore(shown(), tmp_path)
