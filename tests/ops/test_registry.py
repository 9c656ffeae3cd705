"""Which operator covers which spelling."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deltafx import ops
from deltafx.ops.base import Sample


def test_refuses_duplicates() -> None:
    class Twice:
        module_types = (nn.Conv2d,)

    with pytest.raises(AssertionError, match=r"Conv2d'> is claimed by .*Conv'> and by .*Twice'>"):
        ops.table_of("module_types", (ops.Conv, Twice))


def test_every_operator_has_samples() -> None:
    for operator in ops.OPERATORS:
        samples = operator.samples()
        names = [sample.name for sample in samples]
        assert names
        assert len(set(names)) == len(names), operator


def test_every_module_type_has_a_sample() -> None:
    samples = [sample for operator in ops.OPERATORS for sample in operator.samples()]
    sampled = {type(module) for sample in samples for module in sample.module.modules()}
    assert sampled.issuperset(ops.MODULES)


def test_samples_are_the_same_in_every_call() -> None:
    for operator in ops.OPERATORS:
        first = operator.samples()
        torch.rand(3)
        for a, b in zip(first, operator.samples(), strict=True):
            assert (a.name, a.inputs, a.low, a.high) == (b.name, b.inputs, b.low, b.high)
            for x, y in zip(a.module.state_dict().values(), b.module.state_dict().values(), strict=True):
                assert torch.equal(x, y)


def test_samples_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    for operator in ops.OPERATORS:
        operator.samples()
    assert torch.equal(torch.get_rng_state(), before)


def test_sample_is_in_evaluation_mode() -> None:
    sample = Sample("dropout", nn.Sequential(nn.Dropout(), nn.Linear(3, 5)))
    assert not any(module.training for module in sample.module.modules())
    assert not any(parameter.requires_grad for parameter in sample.module.parameters())


def test_method_means_the_function_of_its_name() -> None:
    """Methods are looked up by name, so a method and a function of one name must be one operator's."""
    for name, operator in ops.METHODS.items():
        function = getattr(torch, name, None)
        assert hasattr(Tensor, name)
        assert ops.FUNCTIONS.get(function, operator) is operator, name


@pytest.mark.parametrize(
    ("base", "args"),
    [
        (nn.Conv2d, (3, 5, 3)), (nn.MaxPool2d, (2,)), (nn.AvgPool1d, (2,)), (nn.AdaptiveMaxPool2d, (2,)),
        (nn.ReflectionPad2d, (1,)), (nn.CircularPad2d, (1,)), (nn.LogSoftmax, (1,)), (nn.Softmin, (1,)),
        (nn.BatchNorm2d, (3,)), (nn.Upsample, (4,)), (nn.InstanceNorm2d, (3,)),
    ],
)  # fmt: skip
def test_subclass_computes_what_its_base_does(base: Any, args: tuple) -> None:
    module = type("Of" + base.__name__, (base,), {})(*args).eval()
    operator = ops.operator_of_module(module)
    assert operator is ops.MODULES[base]
    x = torch.randn((2, 3, 6) if "1d" in base.__name__ else (2, 3, 6, 6))
    torch.testing.assert_close(operator.from_module(module)(x), module(x))


@pytest.mark.parametrize("method", ["forward", "_conv_forward"])
def test_subclass_that_computes_something_else_is_unknown(method: str) -> None:
    module = type("Other", (nn.Conv2d,), {method: lambda self, x, *rest: x})(3, 5, 3)
    assert ops.operator_of_module(module) is None


def test_module_with_a_forward_of_its_own_is_unknown() -> None:
    module = nn.ReLU()
    module.forward = types.MethodType(lambda self, x: -x, module)  # type: ignore[method-assign]
    assert ops.operator_of_module(module) is None


def test_parametrised_weight_is_read_as_it_is() -> None:
    module = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3)).eval()
    operator = ops.operator_of_module(module)
    assert operator is ops.Conv
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(operator.from_module(module)(x), module(x))


def test_operator_is_still_a_module() -> None:
    op = ops.Conv.from_module(nn.Conv2d(3, 5, 3))
    assert list(op.modules()) == [op]
