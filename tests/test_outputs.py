"""Outputs: they keep their structure and belong to the caller."""

import collections
import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import deltafx
from deltafx.measure import tensors_of
from tests.small import PAYLOADS, dense, frame, touched


class Pair(NamedTuple):
    image: torch.Tensor
    sum: torch.Tensor


@dataclasses.dataclass
class Result:
    image: torch.Tensor
    sum: torch.Tensor
    name: str = "result"


class Returns(nn.Module):
    """A convolution whose output is handed out in some form."""

    def __init__(self, form):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("table", torch.arange(6.0))
        self.form = form

    def forward(self, x):
        return self.form(x, self.conv(x), self.table)


FORMS = {
    "tensor": lambda x, y, table: y,
    "input": lambda x, y, table: x,
    "input and output": lambda x, y, table: (x, y),
    "view": lambda x, y, table: y.flatten(2).transpose(1, 2),
    "view of the input": lambda x, y, table: (x[:, 1:], y),
    "parts": lambda x, y, table: y.chunk(2, 1),
    "slice of what was joined": lambda x, y, table: (torch.cat([y, x], 1), y),
    "constant": lambda x, y, table: (y, table),
    "constant arithmetic": lambda x, y, table: (y, table * 2),
    "twice": lambda x, y, table: (y, y),
    "list": lambda x, y, table: [x, y],
    "dict": lambda x, y, table: {"x": x, "y": y, "deeper": [y.mean((2, 3)), None, 3]},
    "ordered dict": lambda x, y, table: collections.OrderedDict([("y", y), ("x", x)]),
    "named tuple": lambda x, y, table: Pair(y, y.sum(1)),
    "dataclass": lambda x, y, table: Result(y, y.sum(1)),
    "nested containers": lambda x, y, table: {"pair": Pair(y, x), "list": [(y,), x]},
    "numbers beside tensors": lambda x, y, table: (y, 5, "name", None),
    "shape beside tensors": lambda x, y, table: (y, y.shape[2]),
}


def returns(form):
    torch.manual_seed(0)
    return Returns(FORMS[form]).eval()


def same_structure(a, b):
    assert type(a) is type(b)
    if dataclasses.is_dataclass(a):
        assert [f.name for f in dataclasses.fields(a)] == [f.name for f in dataclasses.fields(b)]
        a, b = vars(a), vars(b)
    pieces, others = pytree.tree_flatten(a), pytree.tree_flatten(b)
    assert pieces[1] == others[1]
    for one, other in zip(pieces[0], others[0], strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("form", FORMS)
def test_an_output_keeps_its_structure(form, payload):
    model = returns(form)
    dm = deltafx.convert(model, payload=payload)
    for x in (frame(), touched(frame()), frame(1)):
        same_structure(dm(x), dense(model, x))


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("form", FORMS)
def test_a_later_frame_never_changes_an_output(form, payload):
    dm = deltafx.convert(returns(form), payload=payload)
    outputs = [tensors_of(dm(frame(seed))) for seed in range(3)]
    copies = [[tensor.clone() for tensor in tensors] for tensors in outputs]
    dm(frame(4))
    assert all(torch.equal(a, b) for got, kept in zip(outputs, copies) for a, b in zip(got, kept))


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("form", FORMS)
def test_what_the_caller_does_to_an_output_changes_nothing(form, payload):
    model = returns(form)
    dm = deltafx.convert(model, payload=payload)
    x = frame()
    for _ in range(3):
        for tensor in tensors_of(dm(x)):
            tensor.fill_(7)
    same_structure(dm(x), dense(model, x))
    assert torch.equal(model.table, torch.arange(6.0))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_same_tensor_twice_is_the_same_tensor_twice(payload):
    dm = deltafx.convert(returns("twice"), payload=payload)
    first, second = dm(frame())
    assert first is second


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("form", ["tensor", "view", "input and output"])
def test_without_copies_an_output_shows_the_next_frame(form, payload):
    model = returns(form)
    dm = deltafx.convert(model, payload=payload, options={"copy_outputs": False})
    old = tensors_of(dm(frame()))
    for a, b in zip(old, tensors_of(dense(model, frame())), strict=True):
        torch.testing.assert_close(a, b)
    new = tensors_of(dm(frame(1)))
    for a, b, want in zip(old, new, tensors_of(dense(model, frame(1))), strict=True):
        assert a.data_ptr() == b.data_ptr()
        torch.testing.assert_close(a, want)


def test_without_copies_the_callers_frame_is_still_his():
    dm = deltafx.convert(returns("input"), options={"copy_outputs": False})
    x = frame()
    assert dm(x).data_ptr() != x.data_ptr()
