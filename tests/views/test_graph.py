import networkx as nx
import pytest

import deltafx
from tests.views.shown import in_parts, model, shown


def test_nodes_have_everything_that_the_report_has():
    report = deltafx.report(shown())
    graph = deltafx.to_networkx(shown())
    assert set(graph) == {*(node.path for node in report.nodes), "delta_to_dense.head"}
    for node in report.nodes:
        data = graph.nodes[node.path]
        assert all(data[name] == getattr(node, name) for name in ("operator", "macs", "update_rate", "state_bytes"))
    assert graph.nodes["blocks.0.first"]["groups"] == ("blocks", "0")
    assert graph.nodes["blocks.0.first"]["label"] == "first"
    assert graph.graph["macs_dense"] == report.totals["macs_dense"]


def test_kinds():
    kinds = {name: data["kind"] for name, data in deltafx.to_networkx(shown()).nodes(data=True)}
    assert kinds["dense_to_delta.x"] == "input"
    assert kinds["stem"] == "delta"
    assert kinds["unknown"] == "island"
    assert kinds["delta_to_dense.head"] == "output"


def test_edges_follow_the_graph():
    graph = deltafx.to_networkx(deltafx.report(shown()))
    assert set(graph.predecessors("blocks.0.second")) == {"blocks.0.first", "stem"}
    assert graph.edges["stem", "blocks.0.first"] == {"elements": 8 * 32 * 48, "handed_over": False}
    assert nx.is_directed_acyclic_graph(graph)
    assert list(graph.successors("head")) == ["delta_to_dense.head"]


def test_parts_are_joined_where_tensors_are_handed_over():
    graph = deltafx.to_networkx(in_parts())
    assert graph.edges["backbone.add", "dense_to_delta.input"]["handed_over"]
    assert graph.nodes["found"]["kind"] == "eager"
    assert "delta_to_dense.backbone.add" not in graph
    assert nx.is_directed_acyclic_graph(graph)


def test_before_the_first_frame():
    graph = deltafx.to_networkx(deltafx.convert(model()))
    assert graph.edges["stem", "blocks.0.first"]["elements"] is None


def test_graphml_can_be_read_back(tmp_path):
    deltafx.to_graphml(shown(), tmp_path / "graph.graphml")
    back, graph = nx.read_graphml(tmp_path / "graph.graphml"), deltafx.to_networkx(shown())
    assert set(back) == set(graph)
    assert set(back.edges) == set(graph.edges)
    assert back.nodes["blocks.0.second"]["inputs"] == "blocks.0.first stem"
    assert back.nodes["stem"]["update_rate"] == graph.nodes["stem"]["update_rate"]
    assert "reason" not in back.nodes["stem"]


def test_what_was_not_converted_is_refused():
    with pytest.raises(TypeError, match=r"to_networkx takes what deltafx\.convert returned; got Two"):
        deltafx.to_networkx(model())
