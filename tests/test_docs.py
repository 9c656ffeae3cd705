"""The examples in the documentation run; those of one page share their names."""

import json
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

DOCS = Path(__file__).parents[1] / "docs"
PARSERS = [PythonCodeBlockParser(), SkipParser()]
PAGES = sorted(path.name for path in DOCS.glob("*.md") if "```python" in path.read_text())


@pytest.mark.parametrize("page", PAGES)
def test_examples(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what an example writes belongs nowhere
    document = Sybil(parsers=PARSERS, path=str(DOCS), patterns=["*.md"]).parse(DOCS / page)
    for example in document.examples():
        example.evaluate()


def test_there_are_some():
    assert {"index.md", "getting-started.md", "how-it-works.md", "seeing.md", "thresholds.md"} <= set(PAGES)


def test_results_become_pages(tmp_path, monkeypatch):
    pytest.importorskip("mkdocs")
    from tools import docs_hooks

    times = {"p50": 2.0, "p99": 3.0}
    found = {**times, "times_faster": 4.0, "share": 0.25, "tflops": 1.0, "gbps": 5.0, "launches": 60}
    case = {
        "device": "H100", "torch": "2.11", "commit": "abc", "command": "python -m benchmarks.gpu", "dtype": "float16",
        "case": "resnet50:1:720x1280", "dense": {"eager": times}, "converted": {"5 %": found}, "state_bytes": 2**20,
    }  # fmt: skip
    for name, content in {
        "drift.json": {"torch": "2.14", "results": [{"case": "a", "ms": 1.25}]},
        "cuda/a.json": case,
        "calibrations/street.json": {"thresholds": {}},
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.setattr(docs_hooks, "RESULTS", tmp_path)
    pages = docs_hooks.results()
    assert list(pages) == ["cuda", "drift"]
    assert "| a | 1.25 |" in pages["drift"]
    assert "From `benchmarks/results/cuda/*.json`" in pages["cuda"]
    assert "| 5 % | 2.00 | 3.00 | 4.00 | 25.0% |" in pages["cuda"]
    assert "* [cuda](cuda.md)" in docs_hooks.benchmarks()
