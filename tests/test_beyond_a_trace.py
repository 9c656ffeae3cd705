"""What a trace does not see: what a model keeps, who looks at it, what it is called with, and under what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deltafx
from deltafx.graph_module import DeltaGraphModule
from deltafx.parts import DeltaParts
from tests.passes.helpers import assert_same
from tests.small import frame


class Net(nn.Module):
    """Two convolutions and a function of this module and the frame; `kept` is for what it remembers."""

    def __init__(self, function: Callable, kept: Any = None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.function, self.kept = function, kept

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def net(function: Callable, kept: Any = None) -> nn.Module:
    """Whose forward has the arguments of the function."""
    kind = type("Net", (Net,), {"forward": function})
    return kind(function, kept).eval()


def follow(model: nn.Module, *others: Any, frames: int = 4) -> Any:
    """Convert, and compare with a model that has seen the same frames."""
    dm = deltafx.convert(model)
    for n in range(frames):
        assert_same(dm, model, frame(n), *others)
    return dm


# ---------------------------------------------------------------------------------------------------------------------
# What a model keeps


def last_frame(self: Any, x: Tensor) -> Tensor:
    before = x if self.kept is None else self.kept
    self.kept = x
    return self.first(x - before)


def average(self: Any, x: Tensor) -> Tensor:
    self.kept = 0.5 * self.kept + 0.5 * self.first(x)
    return self.kept


def counter(self: Any, x: Tensor) -> Tensor:
    self.kept += 1
    return self.first(x) * self.kept


def queue(self: Any, x: Tensor) -> Tensor:
    self.kept.append(self.first(x))
    del self.kept[:-2]
    return sum(self.kept)


def attribute(self: Any, x: Tensor) -> Tensor:
    x = self.first(x) + getattr(self, "late", 0)
    self.late = x
    return x


def turns(self: Any, x: Tensor) -> Tensor:
    return self.first(x) * self.kept.pop()


def by_name(self: Any, x: Tensor) -> Tensor:
    before = self.kept.get("before", 0)
    self.kept["before"] = self.first(x)
    return self.kept["before"] + before


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (last_frame, None),
        (average, torch.ones(1)),
        (counter, 0),
        (queue, []),
        (attribute, None),
        (turns, [1.0, 2.0, 3.0, 4.0, 5.0]),
        (by_name, {}),
    ],
)
def test_what_a_frame_takes_from_the_one_before_is_kept(function: Callable, kept: Any) -> None:
    model = net(function, kept)
    dm = follow(model)
    assert isinstance(dm, DeltaParts)
    assert "from one frame to the next" in dm.not_whole


def features(self: Any, x: Tensor) -> Tensor:
    self.kept = self.first(x)
    return torch.relu(self.kept)


def calls(self: Any, x: Tensor) -> Tensor:
    self.kept = (self.kept or 0) + 1
    return self.first(x)


def grid(self: Any, x: Tensor) -> Tensor:
    if self.kept is None:
        self.kept = torch.linspace(0, 1, 8)
    return self.first(x) + self.kept


def made_of_weights(self: Any, x: Tensor) -> Tensor:
    if self.kept is None:
        self.kept = {}
    if x.device not in self.kept:
        self.kept["here"] = self.first.weight.mean() * 2
        self.late = (self.second.bias.sum(), self.first.bias[0])
    self.first.calls = getattr(self.first, "calls", 0) + 1
    return self.first(x) * self.kept["here"] + self.late[0]


@pytest.mark.parametrize("function", [features, calls, grid, made_of_weights])
def test_what_is_kept_for_others_or_never_changes_leaves_a_graph(function: Callable) -> None:
    assert isinstance(follow(net(function)), DeltaGraphModule)


def test_a_trace_leaves_what_a_model_keeps_as_it_was() -> None:
    kept = [torch.ones(1)]
    model = net(queue, kept)
    deltafx.convert(model)
    assert model.kept is kept
    assert len(kept) == 1
    assert not hasattr(net(attribute), "late")


# ---------------------------------------------------------------------------------------------------------------------
# Who looks at it


def test_hooks_of_the_model_itself() -> None:
    model = net(lambda self, x: self.first(x))
    model.register_forward_hook(lambda module, args, result: result * 2)
    model.register_forward_pre_hook(lambda module, args: (args[0] - 0.5,))
    follow(model)


def test_hooks_of_a_module_that_others_are_in() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 2, 3)).eval()
    seen: list[Tensor] = []
    dm = deltafx.convert(model)
    assert isinstance(dm, DeltaGraphModule)
    model[0].register_forward_hook(lambda module, args, result: seen.append(result))
    dm = deltafx.convert(model)
    seen.clear()
    for n in range(3):
        result = dm(frame(n))
        assert torch.equal(seen[-1], seen[n])
        with torch.no_grad():
            torch.testing.assert_close(result, model[1](seen[-1]), rtol=1e-4, atol=1e-5)
    assert len(seen) == 3
    assert "has hooks" in dm.not_whole


def test_a_forward_that_was_replaced_is_refused_or_run() -> None:
    model = net(lambda self, x: self.first(x))
    outer = nn.Sequential(model, nn.ReLU())
    model.forward = lambda x: x * 2
    follow(outer.eval())
    with pytest.raises(deltafx.ConvertError, match="forward of this Net was replaced"):
        deltafx.convert(model)(frame())


# ---------------------------------------------------------------------------------------------------------------------
# What it is called with


def masked(self: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    y = self.first(x)
    return y if mask is None else y * mask


@pytest.mark.parametrize("examples", [None, (frame(),)], ids=["", "examples"])
def test_an_argument_that_may_be_missing(examples: Any) -> None:
    model = net(masked)
    dm = deltafx.convert(model, examples)
    mask = torch.rand(2, 1, 8, 8)
    for n in range(3):
        assert_same(dm, model, frame(n))
    for n in range(3):
        assert_same(dm, model, frame(n), mask)
    assert list(dm.parts) == [""]


def unread(self: Any, x: Tensor, mask: Tensor | None = None, *more: Any) -> Tensor:
    return self.first(x)


def needed(self: Any, x: Tensor, mask: Any = None) -> Tensor:
    return self.first(x) * mask


def test_an_argument_that_changes_nothing_by_missing_or_is_needed_leaves_a_graph() -> None:
    assert isinstance(follow(net(unread)), DeltaGraphModule)
    assert isinstance(follow(net(needed), torch.rand(2, 1, 8, 8)), DeltaGraphModule)


def of_type(self: Any, x: Any) -> Tensor:
    return self.first(x if isinstance(x, Tensor) else torch.cat(x))


def of_types(self: Any, x: Any) -> Tensor:
    y = self.first(x)
    if isinstance(y, (list, tuple)) or not isinstance(x, (list, Tensor)):
        return y * 2
    return y + (1 if isinstance(y, Tensor) else 2) - int(isinstance(self.kept, Tensor))


def is_tensor(self: Any, x: Any) -> Tensor:
    return self.first(x) if torch.is_tensor(x) else self.second(x)


@pytest.mark.parametrize("function", [of_type, of_types, is_tensor])
def test_a_model_may_ask_what_it_is_given(function: Callable) -> None:
    assert isinstance(follow(net(function)), DeltaGraphModule)
    assert isinstance(1, int)
    assert "isinstance" not in globals()


def test_a_model_may_be_given_a_list() -> None:
    model = net(of_type)
    frames = [frame(0, streams=1), frame(1, streams=1)]
    with pytest.raises(deltafx.FrameError):
        deltafx.convert(model)(frames)


class Odd(Tensor):
    pass


def exact_type(self: Any, x: Tensor) -> Tensor:
    return self.first(x) if type(x) is Tensor else self.second(x)


def test_examples_show_where_a_graph_does_something_else() -> None:
    """`type(x)` tells the truth while a model is traced: it is no tensor."""
    model = net(exact_type)
    dm = deltafx.convert(model, frame())
    assert "does something else than the model" in dm.not_whole
    assert_same(dm, model, frame())


# ---------------------------------------------------------------------------------------------------------------------
# Under what


def graded(self: Any, x: Tensor) -> Tensor:
    return self.first(x) if torch.is_grad_enabled() else self.second(x)


def test_it_is_traced_as_it_runs() -> None:
    model = net(graded)
    assert_same(deltafx.convert(model), model, frame())


def with_autocast(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return y + self.second(x)


def test_a_model_that_turns_autocast_on_runs_under_it() -> None:
    model = net(with_autocast)
    dm = follow(model)
    assert set(dm.parts) == {"first"}
    assert "autocast" in dm.not_whole
    assert "autocast" in dm.watched["second"].reason
    with torch.autocast("cpu"), pytest.raises(deltafx.FrameError, match="autocast is on"):
        dm(frame())


def without_autocast(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return self.first(x)


def test_a_model_that_turns_autocast_off_is_a_graph() -> None:
    assert isinstance(follow(net(without_autocast)), DeltaGraphModule)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_module_within_it_runs_as_it_is() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    model = nn.Sequential(torch.jit.script(inner), nn.Conv2d(4, 4, 3)).eval()
    assert set(follow(model).parts) == {"1"}


def test_interpolation_of_a_default() -> None:
    """Numbers that may be left out are inputs like others."""
    model = net(lambda self, x, gain=2.0: F.relu(self.first(x)) * gain)
    dm = follow(model)
    assert isinstance(dm, DeltaGraphModule)
    assert_same(dm, model, frame(), 3.0)
