"""What the CPU benchmark makes of its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
from benchmarks import cpu_table
from benchmarks.cpu_scaling import draw_scaling
from benchmarks.opponents import FLOAT32


def times(median: float, share: float) -> dict[str, Any]:
    return {"median": median, "lower": 0.9 * median, "upper": 1.1 * median, "runs": 9, "share": share}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cases = {"nothing changed": times(1.0, 0.0), "one 32x32 blob": times(2.0, 0.01), "5% in blobs": times(20.0, 0.1)}
    cases |= {"everything changed": times(120.0, 1.0), "everything changed, bfloat16": times(100.0, 1.0)}
    opponents = {"OpenVINO f32": times(100.0, 1.0), "eager": times(200.0, 1.0), "OpenVINO bf16": times(150.0, 1.0)}
    facts = dict.fromkeys(cpu_table.FACTS, "x")
    network = {"network": "resnet50", **facts, "cases": cases, "opponents": opponents, "missing": {}}
    streams = {"network": "resnet50 streams", **facts, "streams": {"1": times(10.0, 0.1), "4": times(30.0, 0.1)}}
    (tmp_path / "results").mkdir()
    (tmp_path / "results/resnet50.json").write_text(json.dumps(network))
    (tmp_path / "results/resnet50_streams.json").write_text(json.dumps(streams))
    return tmp_path / "results"


def row(text: str, name: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_are_held_against_the_best_of_their_dtype(folder: Path) -> None:
    draw_scaling(folder)
    cpu_table.write_tables(folder, FLOAT32)
    text = folder.with_suffix(".md").read_text()
    assert row(text, "nothing changed")[3:] == ["100.00", "80"]
    assert row(text, "everything changed")[3:] == ["0.83", "0.9 MISSED"]
    assert row(text, "everything changed, bfloat16")[3] == "1.50"
    assert row(text, "4")[3:] == ["7.50", "1.33"]
    assert "(results/streams.png)" in text
    assert (folder / "update_rate.png").stat().st_size > 1000


def test_the_readme_has_what_was_measured(folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{cpu_table.START}\nold\n{cpu_table.END}\nafter\n")
    cpu_table.main(readme, folder)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert row(text, "5% in blobs") == ["5% in blobs", "5x"]
    assert row(text, "nothing changed")[1] == "100x"
    assert row(text, "best opponent, ms")[1] == "OpenVINO f32 100.0"
    cpu_table.main(readme, folder)
    assert readme.read_text() == text


def test_a_readme_without_marks_is_refused(folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n")
    with pytest.raises(SystemExit, match="are needed"):
        cpu_table.main(readme, folder)
    assert readme.read_text() == "before\n"


def test_the_projects_readme_has_the_marks() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert text.count(cpu_table.START) == 1
    assert cpu_table.END in text.split(cpu_table.START)[1]
