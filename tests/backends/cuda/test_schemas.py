"""The CUDA operators as PyTorch sees them: schemas that say what is written to, fakes, and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltafx
from deltafx.backends import unavailable
from tests.backends.schemas import Everything, Record, copied, names_of, replaced, undeclared_writes

if unavailable("cuda"):
    pytest.skip(f"CUDA backend: {unavailable('cuda')}", allow_module_level=True)
from deltafx.backends.cuda.fake import OPERATORS
from deltafx.backends.cuda.parts import pieces

pytestmark = pytest.mark.cuda


class Joined(Everything):
    """Also a concatenation, whose mask is collected, of whose parts one is copied, and a product of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pooled, gated = super().forward(x)
        classes = self.classifier(pooled.mean((2, 3), keepdim=True))
        return pooled, torch.cat([gated, x[..., :9, :10].mean(1, keepdim=True), gated], 1), classes


@pytest.fixture(scope="module")
def calls() -> Iterator[dict[str, tuple]]:
    torch.manual_seed(0)
    dm = deltafx.convert(Joined().eval().cuda(), backend="cuda", threshold=0.1, options={"cuda_graph": False})
    first = torch.randn(2, 3, 17, 19, device="cuda")
    dm(first)
    first[1, :, 4:9, 5] += 1
    plan = dm.runtime.plans[0]
    inner = [state for state in plan.nodes.values() if hasattr(state.kernel, "run_densely")]
    for state in inner:
        state.kernel.prepare(plan)
    with Record("deltafx_cuda") as record:
        dm(first)
        for state in inner:  # as in a frame in which most has changed
            state.kernel.run_densely(state, plan)
    counted = torch.zeros(0, 2, dtype=torch.int64, device="cuda")
    marked = (pieces([leaf for state in inner for leaf in state.leaves], plan.stale.device), 0, counted)
    ticked = (torch.zeros(2, 3, dtype=torch.int64, device="cuda"), 1, 1)
    yield {**record.calls, "mark": marked, "tick": ticked}
    del dm  # whose memory the arguments of `clear` and `mark` name


def operator(name: str) -> Any:
    return getattr(torch.ops.deltafx_cuda, name).default


def test_a_frame_calls_every_operator(calls: dict[str, tuple]) -> None:
    assert sorted(calls) == sorted(OPERATORS)
    assert names_of("deltafx_cuda") == sorted([*OPERATORS, "tilings"])  # which is asked when a kernel is made


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str, calls: dict[str, tuple]) -> None:
    torch.library.opcheck(operator(name), copied(calls[name]))


def test_opcheck_of_what_a_convolution_can_have(calls: dict[str, tuple]) -> None:
    x, weight, groups, *window = calls["convolve"][:7]
    checks = ("test_schema", "test_autograd_registration")  # it returns numbers, which no tracer looks into
    torch.library.opcheck(operator("tilings"), (x, weight, groups, *window, True, 4), test_utils=checks)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_not_declared_as_written_is_not_written(name: str, calls: dict[str, tuple]) -> None:
    assert undeclared_writes(operator(name), calls[name]) == []


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        ("convolve", "x", torch.zeros(4, 3), "x: a CUDA tensor is needed; got one on cpu"),
        ("convolve", "x", torch.zeros(2, 3, 4), r"x: a matrix \[pixels, channels\] is needed"),
        ("convolve", "x", torch.zeros(3, 90).t(), "x: channels must lie side by side"),
        ("convolve", "x", torch.zeros(4, 3, dtype=torch.float64), "x: float32, float16 or bfloat16 is supported"),
        ("dense_to_delta", "frame", torch.zeros(3), r"frame: \[N, C, H, W\] on cuda:0 is needed"),
        ("dense_to_delta", "frame", torch.zeros(2, 3, 17, 19, dtype=torch.uint8), "frame: uint8 with raw and levels"),
        ("tick", "ticks", torch.zeros(3, dtype=torch.int64), r"ticks: .* \[2, places\] is needed"),
        ("tick", "place", 3, "place: 1 from 3 on of 3"),
    ],
)
def test_refuses_what_it_cannot_read(
    name: str, argument: str, value: Any, message: str, calls: dict[str, tuple]
) -> None:
    given = value.cuda() if isinstance(value, Tensor) and "CUDA tensor" not in message else value
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        operator(name)(*replaced(operator(name), calls[name], argument, given))
