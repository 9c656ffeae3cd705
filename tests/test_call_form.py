"""The form of a call is that of PyTorch's pytrees, whichever way it is found."""

from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from deltafx.call_form import CallForm, flattened

X, Y = torch.zeros(2), torch.ones(1)
CALLS: dict[str, tuple[tuple, dict[str, Any]]] = {
    "a tensor": ((X,), {}),
    "two tensors": ((X, Y), {}),
    "nothing": ((), {}),
    "a number": ((X, 3), {}),
    "by name": ((X,), {"y": Y}),
    "a list": (([X, Y],), {}),
    "None": ((X, None), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_flattened_as_a_pytree(name: str) -> None:
    args, kwargs = CALLS[name]
    given, spec = flattened(args, kwargs)
    want, want_spec = pytree.tree_flatten((args, kwargs))
    assert spec == want_spec
    assert all(a is b for a, b in zip(given, want, strict=True))


def test_forms_differ_where_calls_do() -> None:
    forms = [CallForm.of(*call)[0] for call in CALLS.values()]
    assert len(set(forms)) == len(CALLS)
    again = [CallForm.of(*call)[0] for call in CALLS.values()]
    assert forms == again
    assert CallForm.of((X.clone(),), {})[0] == forms[0]
