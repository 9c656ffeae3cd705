"""The compiled operators as PyTorch sees them: schemas that say what is written to, fakes, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import deltafx
from tests.backends.schemas import Everything, Record, copied, names_of, replaced, undeclared_writes

pytest.importorskip("deltafx._cpu")
from deltafx.backends.cpu.fake import OPERATORS


@pytest.fixture(scope="module")
def calls() -> dict[str, tuple]:
    torch.manual_seed(0)
    node_by_node = {"frame_program": False}  # else a frame is one compiled program, which calls no operators
    dm = deltafx.convert(Everything().eval(), backend="cpu", threshold=0.1, options=node_by_node)
    first = torch.randn(2, 3, 17, 19)
    dm(first)
    first[1, :, 4:9, 5] += 1
    with Record("deltafx") as record:
        dm(first)
    return record.calls


def operator(name: str) -> Any:
    return getattr(torch.ops.deltafx, name).default


def test_a_frame_calls_every_operator(calls: dict[str, tuple]) -> None:
    assert sorted(calls) == sorted(OPERATORS)
    assert sorted(OPERATORS) == names_of("deltafx")


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, calls: dict[str, tuple]) -> None:
    torch.library.opcheck(operator(name), copied(calls[name]))


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_not_declared_as_written_is_not_written(name: str, calls: dict[str, tuple]) -> None:
    assert undeclared_writes(operator(name), calls[name]) == []


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        ("convolve", "x", torch.zeros(2, 3, 4), r"x: a matrix \[pixels, channels\] is needed"),
        ("convolve", "x", torch.zeros(3, 90).t(), "x: channels must lie side by side"),
        ("convolve", "x", torch.zeros(4, 3, dtype=torch.float64), "x: float32 or bfloat16 is supported"),
        ("convolve", "weight", torch.zeros(3), "weight: a contiguous Float CPU tensor of .* elements is needed"),
        ("convolve", "isa", "mmx", "isa: this processor has no mmx"),
        ("convolve", "count", 10**6, "count: 1000000 of"),
        ("depthwise", "x", torch.zeros(180, 7), "depthwise: 7 channels in, 8 out"),
        ("pool", "maximum", False, "pool: a mean needs the shares of its taps"),
        ("copy", "x", torch.zeros(1, 1), r"copy: \[1, 1\] into"),
        ("copy", "steps", [18], "steps: a code and a kind"),
        ("copy", "operands", [], "operands: fewer than the steps name"),
        ("copy", "operands", [torch.zeros(5, 5)], r"operand: \[2, 8\] is needed; got \[5, 5\]"),
        ("reduce", "image_rows", 7, "reduce: .* into"),
        ("collect", "relations", [], "collect: a relation and a tally are needed for each mask"),
        ("dense_to_delta", "frame", torch.zeros(3), r"frame: \[N, C, H, W\] on the CPU is needed"),
        ("dense_to_delta", "frame", torch.zeros(2, 3, 5, 5), r"dense_to_delta: \[2, 3, 5, 5\] into"),
        ("dense_to_delta", "frame", torch.zeros(2, 3, 17, 19, dtype=torch.uint8), "frame: uint8 with raw and levels"),
    ],
)
def test_refuses_what_it_cannot_read(
    name: str, argument: str, value: Any, message: str, calls: dict[str, tuple]
) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        operator(name)(*replaced(operator(name), calls[name], argument, value))
