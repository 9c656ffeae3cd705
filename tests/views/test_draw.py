import shutil
import sys
import xml.etree.ElementTree as ET

import networkx as nx
import pytest
import torch
from torch import nn

import deltafx
from deltafx.views.folded import fold
from deltafx.views.thinned import thin
from tests.views.shown import crowded, in_parts, model, shown

pytest.importorskip("pydot")
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is missing: apt-get install graphviz")


def words(path):
    return " ".join(text.strip() for text in ET.parse(path).getroot().itertext())


@needs_dot
def test_every_node_and_module_is_in_the_picture(tmp_path):
    path = deltafx.draw(shown(), tmp_path / "graph.svg")
    text = words(path)
    for word in ("stem", "blocks", "conv2d + add + relu", "dense_to_delta.x", "delta_to_dense", "MMACs", " ms"):
        assert word in text
    assert "red double frame: runs densely" in text
    svg = path.read_text()
    assert svg.count('class="node"') == len(deltafx.to_networkx(shown()))
    assert svg.count('class="cluster"') == 3


@needs_dot
@pytest.mark.parametrize("form", ["png", "pdf"])
def test_other_formats(tmp_path, form):
    content = deltafx.draw(in_parts(), tmp_path / f"graph.{form}").read_bytes()
    assert content.startswith(b"\x89PNG" if form == "png" else b"%PDF")


def test_a_dot_file_needs_no_graphviz(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    text = deltafx.draw(in_parts(), tmp_path / "graph.dot").read_text()
    assert "handed from one graph to the next" in text
    assert "broken frame: outside of the delta graphs" in text


def test_colours_are_by_what_was_asked(tmp_path):
    by_rate = deltafx.draw(shown(), tmp_path / "rate.dot").read_text()
    by_macs = deltafx.draw(shown(), tmp_path / "macs.dot", by="macs").read_text()
    assert by_rate != by_macs
    assert "pixels updated in the last frame" in by_rate
    assert "multiply-accumulates, of the largest node's" in by_macs


def test_large_networks_are_folded(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["deltafx.views.draw"], "MOST", 16)
    deep = nn.Sequential(*(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4))) for _ in range(6))).eval()
    dm = deltafx.convert(deep)
    dm(torch.rand(1, 3, 4, 4))
    text = deltafx.draw(dm, tmp_path / "folded.dot").read_text()
    assert "4 nodes" in text
    assert "heavy frame: a module with all its nodes" in text
    assert "4 nodes" not in deltafx.draw(dm, tmp_path / "open.dot", depth=9).read_text()


def test_folding_keeps_sums_and_edges():
    graph = deltafx.to_networkx(shown())
    folded = fold(graph, 0, 10)
    assert set(folded) == {"dense_to_delta.x", "stem", "blocks.*", "unknown", "head", "delta_to_dense.head"}
    inside = [data for name, data in graph.nodes(data=True) if name.startswith("blocks.")]
    data = folded.nodes["blocks.*"]
    assert data["macs"] == sum(each["macs"] for each in inside)
    assert data["update_rate"] == pytest.approx(sum(each["update_rate"] for each in inside) / 4)
    assert (data["folded"], data["label"], data["groups"]) == (4, "blocks", ())
    assert nx.is_directed_acyclic_graph(folded)
    assert list(folded.successors("blocks.*")) == ["unknown"]
    assert set(fold(graph, 1, 10)) - set(folded) == {"blocks.0.*", "blocks.1.*"}
    assert fold(graph, 9, 1).nodes == graph.nodes


def test_lines_that_follow_from_others_are_left_out_where_they_are_many(tmp_path):
    graph = deltafx.to_networkx(crowded())
    thinned = thin(graph)
    left_out = thinned.graph["lines_left_out"]
    assert left_out == graph.number_of_edges() - thinned.number_of_edges() > 20
    assert nx.transitive_closure(thinned).edges == nx.transitive_closure(graph).edges
    assert all(thinned.edges[edge] == graph.edges[edge] for edge in thinned.edges)
    assert f"{left_out} lines that follow from others" in deltafx.draw(crowded(), tmp_path / "a.dot").read_text()
    few = deltafx.to_networkx(shown())
    assert thin(few).edges == few.edges
    assert "left out" not in deltafx.draw(shown(), tmp_path / "b.dot").read_text()
    few.add_edges_from([(a, b) for a in few for b in few if a != b])  # closed modules may read each other
    assert thin(few).edges == few.edges


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("graph.jpeg", {}, "suffix is expected to be one of .svg, .png, .pdf, .dot"),
        ("graph.dot", {"by": "colour"}, "unknown measure to colour by 'colour'"),
    ],
)
def test_what_is_refused(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        deltafx.draw(shown(), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_times_that_there_are_not(tmp_path):
    dm = deltafx.convert(model())
    with pytest.raises(ValueError, match=r"there are no times to colour by: convert with options=\{'profile'"):
        deltafx.draw(dm, tmp_path / "graph.dot", by="milliseconds")


def test_without_graphviz_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"`dot` is not on the PATH\. Install it \(apt install graphviz"):
        deltafx.draw(shown(), tmp_path / "graph.svg")


def test_without_pydot_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(ImportError, match=r"pip install 'deltafx\[draw\]'"):
        deltafx.draw(shown(), tmp_path / "graph.svg")
