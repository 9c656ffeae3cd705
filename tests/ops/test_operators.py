"""Every sample of every operator, converted alone, against the dense module: values, and masks by brute force."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import deltafx
from deltafx.node import DeltaNode, DeltaToDense
from deltafx.ops import OPERATORS, BatchNorm
from deltafx.ops.base import Call, Sample
from deltafx.state import COMPUTED
from tests.tolerance import TOLERANCE

SAMPLES = {f"{operator.__name__}-{sample.name}": sample for operator in OPERATORS for sample in operator.samples()}
each_sample = pytest.mark.parametrize("name", SAMPLES)

# Where a value is not the dense function's bit for bit.
ROUNDS = {f"BatchNorm-{sample.name}": "scale and shift are computed once" for sample in BatchNorm.samples()}

# Where the mask is larger than what a change of one pixel can reach.
LARGER = {
    "AddShortcut-without_first": "the first token's shortcut is not added",
    "GetItem-computed_place": "another place may be picked",
    "IndexSelect-computed": "other places may be picked",
    "Pointwise-torch.heaviside": "the second operand counts only where the first is 0",
    "Pointwise-torch.logical_or": "the other operand is true everywhere",
    "Pointwise-type_as": "the second operand gives nothing but its dtype",
}

# A pixel's place along each dimension, from 0 to 1.
CORNER, EDGE, MIDDLE, END = (0.0, 0.0, 0.0), (0.4, 1.0, 0.3), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)


def as_model(sample: Sample) -> nn.Module:
    """Tracing looks into the outermost module, so one whose call is to be a node stands inside another."""
    return sample.module if isinstance(sample.module, Call) else nn.Sequential(sample.module).eval()


def run(model: nn.Module, frame: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors a model returns; it gets copies, because some dense modules write into their input."""
    with torch.no_grad():
        result = model(*(x.clone() for x in frame))
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def with_pixel(
    frame: tuple[Tensor, ...], which: int, stream: int, place: tuple[float, ...], value: float
) -> tuple[Tensor, ...]:
    """The frame with one pixel of one stream set, to values around `value` that differ from channel to channel."""
    changed = frame[which].clone()
    pixel = [round(p * (size - 1)) for p, size in zip(place, changed.shape[2:])]
    changed[(stream, slice(None), *pixel)] = value * torch.linspace(1.0, 1.3, changed.shape[1])
    return (*frame[:which], changed, *frame[which + 1 :])


def clip(sample: Sample) -> list[tuple[Tensor, ...]]:
    """First frame, two pixels of one stream, the same again, a corner, a NaN, its recovery, another picture."""
    generator = torch.Generator().manual_seed(1)
    first, other = sample.random_inputs(generator), sample.random_inputs(generator)
    value = sample.low + 0.57 * (sample.high - sample.low)
    few = with_pixel(with_pixel(first, 0, 1, MIDDLE, value), 0, 1, EDGE, value / 2)
    corner = with_pixel(few, len(first) - 1, 0, CORNER, value)
    broken = with_pixel(with_pixel(corner, 0, 0, MIDDLE, float("nan")), 0, 1, END, float("inf"))
    return [first, few, few, corner, broken, corner, other]


def same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())


def assert_close(got: Tensor, want: Tensor) -> None:
    finite = want[want.isfinite()].double()
    scale = finite.square().mean().sqrt().item() if finite.numel() else 0.0
    torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE[torch.float32] * (scale or 1), equal_nan=True)


def output_leaves(dm: Any) -> list[Any]:
    """The states of the tensors that the converted model returns."""
    states = dm.runtime.plans[0].nodes

    def leaves(node: Any) -> list[Any]:
        module = dm.get_submodule(node.target)
        if module.path in states:
            return states[module.path].leaves
        return [leaves(node.args[0])[module.head.args[1]]]  # it picks one of several

    calls = dm.graph.find_nodes(op="call_module")
    return [leaf for n in calls if isinstance(dm.get_submodule(n.target), DeltaToDense) for leaf in leaves(n.args[0])]


def delta_nodes(dm: nn.Module) -> list[DeltaNode]:
    return [module for module in dm.modules() if isinstance(module, DeltaNode)]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("payload", ["value", "difference"])
@each_sample
def test_follows_dense(name: str, payload: str) -> None:
    model = as_model(SAMPLES[name])
    dm = deltafx.convert(model, payload=payload, backend="reference")
    last: list[Tensor] = []
    written: dict[Any, Tensor] = {}
    for frame in clip(SAMPLES[name]):
        want, got = run(model, frame), run(dm, frame)
        for a, b in zip(got, want, strict=True):
            if payload == "difference" or name in ROUNDS:
                assert_close(a, b)
            else:
                assert a.dtype == b.dtype
                assert same(a, b).all()
        for leaf, old, new in zip(output_leaves(dm), last or want, want, strict=True):
            outside = ~leaf.mask.bool().expand(new.shape)
            assert same(old, new)[outside].all(), "mask too small"
        last = want
        if payload == "value":
            assert_unchanged_outside_masks(dm, written)
    assert {node.path: node.head.reason for node in delta_nodes(dm) if node.island} == {}
    assert {path: state.reason for path, state in dm.runtime.plans[0].nodes.items() if state.reason} == {}


@each_sample
def test_takes_channels_last(name: str) -> None:
    if any(len(shape) != 4 for shape in SAMPLES[name].inputs) or name in ("Reshape-view", "Reshape-streams"):
        pytest.skip("there is no such layout, or the dense module refuses it")
    model = as_model(SAMPLES[name])
    dm = deltafx.convert(model, backend="reference")
    for frame in clip(SAMPLES[name]):
        frame = tuple(x.to(memory_format=torch.channels_last) for x in frame)
        for a, b in zip(run(dm, frame), run(model, frame), strict=True):
            assert_close(a, b)


def assert_unchanged_outside_masks(dm: Any, written: dict[Any, Tensor]) -> None:
    """Design rule 1; `written` keeps the values from call to call."""
    for path, state in dm.runtime.plans[0].nodes.items():
        for index, leaf in enumerate(state.leaves):
            old = written.get((path, index), leaf.value)
            assert same(old, leaf.value)[~leaf.mask.bool().expand(old.shape)].all(), path
            written[path, index] = leaf.value.clone()


@each_sample
def test_one_pixel_reaches_what_it_can_change(name: str) -> None:
    """Over changes of one pixel of one stream: the pixels that change are the mask, and the candidates."""
    model = as_model(SAMPLES[name])
    dm = deltafx.convert(model, backend="reference")
    first = SAMPLES[name].random_inputs(torch.Generator().manual_seed(2))
    base = run(model, first)
    for which in range(len(first)):
        for place in (CORNER, MIDDLE, END):
            run(dm, first)
            leaves = output_leaves(dm)
            reached = [torch.zeros_like(x, dtype=torch.bool) for x in base]
            masks = [torch.zeros_like(leaf.mask) for leaf in leaves]
            shares = [0.0 for _ in base]
            for value in (10.0, -10.0, 0.0, 0.37, float("nan")):
                frame = with_pixel(first, which, 1, place, value)
                reached = [r | ~same(a, b) for r, a, b in zip(reached, base, run(model, frame), strict=True)]
                run(dm, frame)
                masks = [mask | leaf.mask for mask, leaf in zip(masks, leaves, strict=True)]
                shares = [max(s, leaf.shares(COMPUTED)[0]) for s, leaf in zip(shares, leaves, strict=True)]
            for mask, change, share in zip(masks, reached, shares, strict=True):
                assert not (change & ~mask.bool()).any(), "mask too small"
                if name not in LARGER:
                    assert any(torch.equal(mask.bool().expand(change.shape), pixels) for pixels in as_pixels(change))
                    assert share == pytest.approx(mask.float().mean().item()), "more was computed"


def as_pixels(change: Tensor) -> list[Tensor]:
    """Changed elements as changed pixels; channels are in dimension 1 or, for tokens, in the last."""
    return [change, *(change.any(d, keepdim=True).expand(change.shape) for d in (1, -1) if change.dim() > 1)]


@each_sample
def test_operators_can_be_copied(name: str) -> None:
    dm = deltafx.convert(as_model(SAMPLES[name]), backend="reference")
    for node in delta_nodes(dm):
        for stage in node.stages:
            assert repr(pickle.loads(pickle.dumps(stage.op))) == repr(copy.deepcopy(stage.op)) == repr(stage.op)
