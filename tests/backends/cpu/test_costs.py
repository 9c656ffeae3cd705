"""What decides whether a layer runs densely: measured once, then read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deltafx

_cpu = pytest.importorskip("deltafx._cpu")
from deltafx.backends.cpu import costs  # noqa: E402

ISA = _cpu.instruction_sets[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty cache."""
    monkeypatch.setenv("DELTAFX_CACHE", str(tmp_path))
    quotients = costs.quotients
    quotients.cache_clear()
    yield tmp_path / "costs"
    quotients.cache_clear()


def test_it_is_measured_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = costs.quotients(ISA, torch.float32, 1)
    (kept,) = folder.iterdir()
    assert json.loads(kept.read_text())["quotients"] == first
    assert all(0 < quotient < 100 for quotient in first.values()), first
    costs.quotients.cache_clear()
    monkeypatch.setattr(costs, "measure", lambda *_: pytest.fail("it was measured again"))
    assert costs.quotients(ISA, torch.float32, 1) == first


def test_other_dtypes_and_threads_are_measured_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "measure", lambda *_: 0.5)
    for dtype, threads in ((torch.float32, 1), (torch.bfloat16, 1), (torch.float32, 2)):
        costs.quotients(ISA, dtype, threads)
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("text", ["", "{", "{}", '{"quotients": {"window": 1}}', '{"quotients": {"window": []}}'])
def test_a_damaged_file_is_measured_anew(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "measure", lambda *_: 0.5)
    costs.quotients(ISA, torch.float32, 1)
    (kept,) = folder.iterdir()
    kept.write_text(text)
    costs.quotients.cache_clear()
    monkeypatch.setattr(costs, "measure", lambda *_: 0.25)
    assert costs.quotients(ISA, torch.float32, 1) == {**dict.fromkeys(costs.KINDS, 0.25), costs.PAIRS: 1.0}
    assert costs.read(kept) == costs.quotients(ISA, torch.float32, 1)


def test_the_first_of_several_processes_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured_meanwhile(*_: Any) -> float:
        costs.keep(path, {}, dict.fromkeys((*costs.KINDS, costs.PAIRS), 0.25))
        return 0.5

    monkeypatch.setattr(costs, "measure", lambda *_: 0.5)
    costs.quotients(ISA, torch.float32, 1)
    (path,) = folder.iterdir()
    path.unlink()
    costs.quotients.cache_clear()
    monkeypatch.setattr(costs, "measure", measured_meanwhile)
    assert set(costs.quotients(ISA, torch.float32, 1).values()) == {0.25}
    assert list(folder.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DELTAFX_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(costs, "measure", lambda *_: 0.5)
    with pytest.warns(UserWarning, match="cannot be kept at .*Set DELTAFX_CACHE"):
        assert costs.quotients(ISA, torch.float32, 1)["window"] == 0.5


def test_what_is_hardly_faster_is_not_worth_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        costs, "quotients", lambda *_: {"pointwise": 0.95, "window": 0.4, "grouped": 0.8, "transposed": 1}
    )
    assert costs.dense_share("pointwise", 1.0, ISA, torch.float32) == costs.NEVER
    assert costs.dense_share("window", 1.0, ISA, torch.float32) == 0.4
    filled = costs.sample_filled(ISA)
    assert costs.dense_share("grouped", filled / 2, ISA, torch.float32) == pytest.approx(0.4)
    assert costs.dense_share("grouped", 2 * filled, ISA, torch.float32) == costs.NEVER


@pytest.mark.skipif(not _cpu.pairs(ISA), reason="there are no products in pairs")
def test_pairs_are_used_where_they_are_clearly_faster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dense operators are held against is the faster way."""
    held_against: list[bool] = []
    monkeypatch.setattr(costs, "measure", lambda kind, isa, dtype, pairs: held_against.append(pairs) or 1.0)
    for quotient, pays in ((0.5, True), (0.95, False), (2.0, False)):
        monkeypatch.setattr(costs, "measure_pairs", lambda *_, quotient=quotient: quotient)
        costs.quotients.cache_clear()
        for kept in folder.glob("*"):
            kept.unlink()
        assert costs.pairs_pay(ISA) == pays
        assert set(held_against) == {pays}
        held_against.clear()


def test_nothing_is_measured_without_the_switch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "measure", lambda *_: pytest.fail("it was measured"))
    dm = deltafx.convert(nn.Conv2d(3, 4, 3).eval(), backend="cpu", options={"dense_switch": False})
    dm(torch.randn(1, 3, 8, 9))


def test_two_runs_give_the_same_bits(folder: Path) -> None:
    """Whatever was measured, and whether it was in this run or in one before."""
    code = """
import hashlib, torch, deltafx
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ConvTranspose2d(8, 4, 2, 2))
dm = deltafx.convert(model.eval(), backend="cpu")
for _ in range(3):
    out = dm(torch.randn(1, 3, 24, 32))
print(hashlib.sha256(out.numpy().tobytes()).hexdigest())
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert len(list(folder.iterdir())) == 1
