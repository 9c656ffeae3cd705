import json

import pytest

from deltafx import coverage, coverage_models
from deltafx.coverage_models import Case

SMALL = ("--filter", "squeezenet1_1", "--filter", "mobilenet_v3_small")


@pytest.fixture
def cases(monkeypatch):
    """Put these in the place of all networks."""
    return lambda *cases: monkeypatch.setattr(coverage_models, "all_cases", lambda: list(cases))


def cells(page):
    """By network: its cells in the Markdown, by column."""
    found, head = {}, None
    for line in page.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if row[0] == "network":
            head = row
        elif not line.startswith("|"):
            head = None
        elif head and not row[0].startswith("---"):
            found[row[0]] = dict(zip(head, row, strict=True))
    return found


def test_json_and_markdown_agree(run, tmp_path):
    done = run("coverage", *SMALL, "--out", tmp_path / "docs" / "coverage.json")
    assert done.code == 0
    assert "2 of 2 networks convert, 2 match the dense network." in done.out
    result = json.loads((tmp_path / "docs" / "coverage.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    page = (tmp_path / "docs" / "coverage.md").read_text()
    shown = cells(page)
    assert set(rows) == set(shown) == {"squeezenet1_1", "mobilenet_v3_small"}
    for name, row in rows.items():
        assert row["status"] == shown[name]["result"] == "matches"
        assert (str(row["delta_nodes"]), str(row["islands"])) == (shown[name]["delta nodes"], shown[name]["islands"])
        assert f"{row['share']:.2%}" == shown[name]["in delta form"] == "100.00%"
        assert f"{max(row['errors']):.1e}" == shown[name]["error"]
        assert f"{row['seconds']:.1f}" == shown[name]["seconds"]
    family = result["summary"]["families"]["2-D classification"]
    assert (family["networks"], family["convert"], family["match"], family["lowest_share"]) == (2, 2, 2, 1.0)
    assert f"* torch: {result['torch']}" in page


def test_what_fails_is_a_row(run, cases):
    cases(Case("torchvision", "no_such", "video"), Case("torchvision", "squeezenet1_1", "2-D classification"))
    done = run("coverage", "--json")
    assert done.code == 3
    assert [row["status"] for row in done.json["rows"]] == ["failed", "matches"]
    assert "Unknown model no_such" in done.json["rows"][0]["why"]
    assert "no_such: failed, ValueError: Unknown model no_such" in done.err


def test_what_is_missing_is_skipped(run, cases):
    cases(Case("effdet", "no_such", "effdet"), Case("torchvision", "squeezenet1_1", "2-D classification"))
    done = run("coverage", "--json")
    status = done.json["rows"][0]["status"]
    assert done.code == {"skipped": 0, "failed": 3}[status]  # failed where effdet is installed


def test_nothing_could_be_tried(run, cases, monkeypatch):
    skipped = coverage.Row("timm:x", "timm", (1,), "skipped", "timm cannot be imported")
    monkeypatch.setattr(coverage, "cover", lambda cases, timeout: iter([skipped]))
    done = run("coverage", "--filter", "timm:hrnet_w32")
    assert done.code == 1
    assert done.err.endswith("deltafx coverage: nothing was tried: timm cannot be imported")


def test_an_interrupt_leaves_what_was_done(run, tmp_path, monkeypatch):
    def one(cases, timeout):
        yield coverage.Row("squeezenet1_1", "2-D classification", (1,), "matches")
        raise KeyboardInterrupt

    file = tmp_path / "coverage.json"
    with monkeypatch.context() as patch:
        patch.setattr(coverage, "cover", one)
        done = run("coverage", *SMALL, "--out", file, "--json")
    assert done.code == 130
    assert [row["name"] for row in done.json["rows"]] == ["squeezenet1_1"]
    assert json.loads(file.read_text()) == done.json

    resumed = run("coverage", *SMALL, "--out", file, "--resume", "--json")
    assert resumed.code == 0
    assert "squeezenet1_1" not in resumed.err
    assert [row["name"] for row in resumed.json["rows"]] == ["mobilenet_v3_small", "squeezenet1_1"]
    assert resumed.json["rows"][1] == done.json["rows"][0]


def test_to_resume_needs_a_file(run):
    done = run("coverage", *SMALL, "--resume")
    assert (done.code, done.err) == (1, "deltafx coverage: --resume goes on with the file that --out names")


def test_an_unknown_filter(run):
    done = run("coverage", "--filter", "resnet19")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("deltafx coverage: unknown network 'resnet19'. Did you mean 'resnet1")
    assert "Known: 2-D classification, alexnet" in done.err
