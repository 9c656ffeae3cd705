"""Text, tables, CSV, totals of modules."""

import csv
import dataclasses
import io
import re

import pytest
from rich.console import Console

import deltafx
from deltafx.report import NodeReport
from deltafx.views.rich_table import rich_hints, rich_subtrees
from deltafx.views.text import HEAD, subtrees_text
from tests.views.shown import in_parts, shown


@pytest.fixture(scope="module")
def report():
    return deltafx.report(shown())


def test_nodes_say_what_they_read_and_what_is_returned(report):
    assert report["blocks.0.second"].inputs == ("blocks.0.first", "stem")
    assert report["dense_to_delta.x"].inputs == ()
    assert [node.path for node in report.nodes if node.is_output] == ["head"]
    assert report["stem"].shape == (1, 8, 32, 48)


def test_a_graph_that_is_given_another_ones_tensor_reads_from_it():
    report = deltafx.report(in_parts())
    assert report["dense_to_delta.input"].inputs == ("backbone.add",)
    assert report["found"].inputs == ()


def test_csv_has_a_line_for_each_node(report, tmp_path):
    text = report.to_csv(tmp_path / "nodes.csv")
    assert (tmp_path / "nodes.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == [each.name for each in dataclasses.fields(NodeReport)]
    assert [row["path"] for row in rows] == [node.path for node in report.nodes]
    assert rows[3]["inputs"] == "blocks.0.first stem"
    assert rows[1]["shape"] == "1x8x32x48"
    assert float(rows[1]["update_rate"]) == report["stem"].update_rate
    assert rows[1]["reason"] == ""


def test_subtrees_add_up(report):
    trees = {each.path: each for each in report.subtrees()}
    assert list(trees) == ["", "blocks", "blocks.0", "blocks.1"]
    assert [each.depth for each in trees.values()] == [0, 1, 2, 2]
    for name in ("nodes", "macs", "macs_mean", "state_bytes", "milliseconds_mean"):
        parts = [getattr(trees[path], name) for path in ("blocks.0", "blocks.1")]
        assert getattr(trees["blocks"], name) == pytest.approx(sum(parts))
    for name in ("macs", "macs_mean", "macs_dense", "milliseconds"):
        assert getattr(trees[""], name) == pytest.approx(report.totals[name])
    assert (trees[""].dense, trees["blocks"].dense) == (1, 0)


def test_subtrees_end_at_a_depth(report):
    assert [each.path for each in report.subtrees(1)] == ["", "blocks"]
    assert [each.path for each in report.subtrees(0)] == [""]


def test_subtrees_as_text(report):
    lines = subtrees_text(report).splitlines()
    assert lines[0].split() == ["module", "nodes", "MMACs", "mean", "dense", "state", "KiB", "ms"]
    assert [line.split()[0] for line in lines[2:]] == ["all", "blocks", "0", "1"]
    assert lines[4].startswith("    0")


def coloured(renderable, width=200):
    console = Console(width=width, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_a_terminal_gets_a_coloured_table_with_the_same_cells(report):
    shown_text = coloured(report)
    assert "\x1b[" in shown_text
    for cell in ("blocks.0.second", "conv2d + add + relu", "dense: unknown (unknown): no operator is known for it"):
        assert cell in shown_text
    assert "blocks" in coloured(rich_subtrees(report))
    assert "what to do next" in coloured(rich_hints(report))


@pytest.mark.parametrize(("width", "gone"), [(200, 0), (90, 2), (60, 4)])
def test_a_narrow_terminal_goes_without_some_columns(report, width, gone):
    shown_text = re.sub(r"\x1b\[[\d;]*m", "", coloured(report, width))
    lines = shown_text.splitlines()
    assert max(map(len, lines)) <= width
    (head,) = [line for line in lines if line.strip().startswith("node ")]
    kept = [column for column in HEAD if column in head]
    assert len(HEAD) - len(kept) >= gone
    assert {"node", "updated", "MMACs", "ms"} <= set(kept)
    assert all(any(line.strip().startswith(node.path) for line in lines) for node in report.nodes)  # in one piece


def test_elsewhere_it_is_plain_text(report, capsys):
    report.show()
    assert capsys.readouterr().out == f"{report}\n"


def test_without_rich_it_is_plain_text(report, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    report.show()
    assert capsys.readouterr().out == f"{report}\n"
