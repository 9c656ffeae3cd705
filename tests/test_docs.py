"""The examples in the documentation run; those of one page share their names."""

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
