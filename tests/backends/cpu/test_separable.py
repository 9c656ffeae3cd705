"""Layers of one program that do not store what is between them give the bits that they give node by node."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltafx
from deltafx.measure import tensors_of
from deltafx.settings import Threshold
from deltafx.state import COMPUTED
from deltafx.testing import blobs, clip, force_masks

pytest.importorskip("deltafx._cpu")
from deltafx import _cpu
from deltafx.backends.cpu import convolution, separable

NODE_BY_NODE = {"frame_program": False}
HEIGHT, WIDTH = 45, 61
# The dtype, and whether bfloat16 is multiplied in pairs, where the processor can.
WAYS = {"float32": (torch.float32, False), "bfloat16": (torch.bfloat16, False), "pairs": (torch.bfloat16, True)}


class Block(nn.Module):
    """An inverted residual behind a stem: the expansion, the depthwise convolution and the projection."""

    def __init__(
        self, channels: int = 13, kernel: int = 3, stride: int = 1, dilation: int = 1, mode: str = "zeros",
        residual: bool = False, out: int = 9, expand: tuple[int, int] = (1, 1),
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = nn.Conv2d(3, 9, 3, 1, 1)
        self.expand = nn.Conv2d(9, channels, *expand, expand[0] // 2)  # kernel and stride
        pad = dilation * (kernel // 2)
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, stride, pad, dilation, groups=channels, padding_mode=mode, bias=residual
        )
        self.project = nn.Conv2d(channels, out, 1)
        self.head = nn.Conv2d(out, 5, 3, 1, 1)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.project(nn.functional.hardswish(self.depthwise(nn.functional.relu6(self.expand(x)))))
        return self.head(y + x if self.residual else y)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "odd channels": lambda: Block(13),
    "residual": lambda: Block(40, residual=True),
    "stride 2": lambda: Block(33, stride=2, out=37),
    "stride 3": lambda: Block(33, stride=3),
    "5x5": lambda: Block(24, kernel=5),
    "5x5, stride 2": lambda: Block(47, kernel=5, stride=2),
    "7x7": lambda: Block(17, kernel=7),
    "dilated": lambda: Block(16, dilation=2),
    "reflected": lambda: Block(16, mode="reflect"),
    "circular": lambda: Block(16, mode="circular"),
    "expanded by a window": lambda: Block(16, expand=(3, 2)),
    "expanded by a window, replicated": lambda: Block(18, stride=2, expand=(3, 1), mode="replicate"),
    "many channels": lambda: Block(330, out=270),
}


def made(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return make().eval().to(dtype)


def frames(count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [frame.to(dtype) for frame in clip(count, HEIGHT, WIDTH)]


def pair(model: nn.Module, **settings: Any) -> tuple[Any, Any]:
    """As a program, and node by node; without layers that run densely."""
    options = {"dense_switch": False, **settings.pop("options", {})}
    return (
        deltafx.convert(model, backend="cpu", options=options, **settings),
        deltafx.convert(copy.deepcopy(model), backend="cpu", options={**options, **NODE_BY_NODE}, **settings),
    )


def not_stored(dm: Any) -> set[str]:
    """The nodes whose maps the last frame did not store."""
    program = dm.runtime.plans[0].frame_program
    return {state.path for state in program.states} - {state.path for state in program.stored}


def assert_same(dm: Any, stepped: Any, frame: Tensor) -> None:
    for ours, theirs in zip(tensors_of(dm(frame)), tensors_of(stepped(frame)), strict=True):
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())


def assert_same_states(dm: Any, stepped: Any) -> None:
    """What is stored is the same; a map that is not has at least the mask that it would have."""
    within = not_stored(dm)
    ours, theirs = (each.runtime.plans[0].nodes for each in (dm, stepped))
    for path, state in theirs.items():
        for mine, leaf in zip(ours[path].leaves, state.leaves, strict=True):
            if path in within:
                assert bool((mine.mask >= leaf.mask).all()), path
            else:
                assert torch.equal(mine.value.nan_to_num(), leaf.value.nan_to_num()), path
                assert torch.equal(mine.mask, leaf.mask), path


@pytest.fixture(params=["expanded anew", "expanded and stored"])
def within(request: Any, monkeypatch: Any) -> set[str]:
    """The layers of a block that are not stored."""
    anew = request.param == "expanded anew"
    monkeypatch.setattr(separable, "LEAST_EXPANDED", 0 if anew else 1 << 40)
    return {"expand", "depthwise"} if anew else {"depthwise"}


@pytest.mark.parametrize("isa", _cpu.instruction_sets)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BLOCKS)
def test_it_gives_the_same_bits(name: str, way: str, isa: str, within: set[str], monkeypatch: Any) -> None:
    dtype, pairs = WAYS[way]
    if pairs and not _cpu.pairs(isa):
        pytest.skip("there are no products in pairs")
    monkeypatch.setattr(convolution, "pairs_pay", lambda isa: pairs)
    dm, stepped = pair(made(BLOCKS[name], dtype), options={"isa": isa})
    for number, frame in enumerate(frames(14, dtype)):
        if number == 10:
            for each in (dm, stepped):
                deltafx.reset(each, streams=[1])
        assert_same(dm, stepped, frame)
        if number:
            assert not_stored(dm) == within
            assert_same_states(dm, stepped)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_give_the_same_bits(threads: int, within: set[str]) -> None:
    before = torch.get_num_threads()
    model = made(BLOCKS["stride 2"])
    try:
        torch.set_num_threads(threads)
        dm, _ = pair(model)
        outputs = [dm(frame).clone() for frame in frames(6)]
        torch.set_num_threads(3)
        other, _ = pair(model)
        for frame, output in zip(frames(6), outputs, strict=True):
            assert torch.equal(other(frame).nan_to_num(), output.nan_to_num())
    finally:
        torch.set_num_threads(before)


def test_what_is_prescribed_holds_within(within: set[str]) -> None:
    dm, stepped = pair(made(BLOCKS["residual"]))
    first, second, *others = frames(8)
    assert_same(dm, stepped, first)
    assert_same(dm, stepped, second)
    for share in (0.05, 0.3):
        mask = blobs(HEIGHT, WIDTH, share, size=12)
        with force_masks(dm, mask), force_masks(stepped, mask):
            assert_same(dm, stepped, first)
            assert_same(dm, stepped, second)
            assert_same_states(dm, stepped)
    for frame in others:
        assert_same(dm, stepped, frame)
    assert not_stored(dm) == within


def test_node_by_node_what_was_not_stored_is_computed_anew(within: set[str]) -> None:
    dm, stepped = pair(made(BLOCKS["stride 2"]))
    shown = frames(12)
    for frame in shown[:4]:
        assert_same(dm, stepped, frame)
    seen: list[int] = []
    hook = dm.get_submodule("depthwise").register_forward_hook(lambda *args: seen.append(1))
    for frame in shown[4:7]:
        assert_same(dm, stepped, frame)
    assert len(seen) == 3
    nodes, theirs = dm.runtime.plans[0].nodes, stepped.runtime.plans[0].nodes
    for path in within:
        assert torch.equal(nodes[path].leaves[0].value, theirs[path].leaves[0].value)
    hook.remove()
    for frame in shown[7:]:
        assert_same(dm, stepped, frame)
        assert_same_states(dm, stepped)


@pytest.mark.parametrize("withheld", ["expand", "depthwise"])
def test_what_a_threshold_withholds_is_stored(withheld: str, within: set[str]) -> None:
    dm, stepped = pair(made(BLOCKS["residual"]), threshold={withheld: 0.2})
    for frame in frames(6):
        assert_same(dm, stepped, frame)
    assert not_stored(dm) == ({"depthwise"} if withheld == "expand" else set())
    assert_same_states(dm, stepped)


def test_a_threshold_may_come_and_go(within: set[str]) -> None:
    dm, stepped = pair(made(BLOCKS["residual"]))
    for number, frame in enumerate(frames(12)):
        if number in (4, 8):
            for each in (dm, stepped):
                module = each.get_submodule("depthwise")
                threshold = Threshold(0.2 if number == 4 else 0.0, absolute=True)
                module.truncation = dataclasses.replace(module.truncation, threshold=threshold)
        # What was not stored is computed in full when it is stored again, which withholds other pixels than before.
        if number < 4:
            assert_same(dm, stepped, frame)
        else:
            dm(frame), stepped(frame)
    (output,), (dense,) = tensors_of(dm(frame)), tensors_of(made(BLOCKS["residual"])(frame))
    assert not_stored(dm) == within
    torch.testing.assert_close(output, dense, rtol=1e-4, atol=1e-4)


class Chain(Block):
    """A depthwise convolution reads what another block projects."""

    def __init__(self) -> None:
        super().__init__(16, out=16)
        self.second, self.last = nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.Conv2d(16, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.depthwise(torch.relu(self.expand(torch.relu(self.stem(x))))))
        return self.last(torch.relu(self.second(torch.relu(x))))


def test_what_one_block_projects_the_next_one_reads(within: set[str]) -> None:
    dm, stepped = pair(made(Chain))
    for frame in frames(6):
        assert_same(dm, stepped, frame)
    assert_same_states(dm, stepped)
    assert not_stored(dm) == {*within, "second"}


class Shared(Block):
    """What is between is read by others too."""

    def __init__(self, what: str) -> None:
        super().__init__(16)
        self.what = what

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.stem(x))
        expanded = torch.relu(self.expand(x))
        filtered = self.depthwise(expanded)
        if self.what == "residual":
            filtered = torch.relu(filtered + expanded)
        y = self.project(filtered)
        if self.what == "concatenated":
            return torch.cat([y, filtered], 1)
        return (y, filtered) if self.what == "returned" else y


@pytest.mark.parametrize("what", ["residual", "concatenated", "returned"])
def test_what_others_read_is_stored(what: str, within: set[str]) -> None:
    dm, stepped = pair(made(lambda: Shared(what)))
    for frame in frames(5):
        assert_same(dm, stepped, frame)
    assert not_stored(dm) == set()
    assert_same_states(dm, stepped)


def test_layers_that_are_faster_densely_are_stored(monkeypatch: Any, within: set[str]) -> None:
    monkeypatch.setattr(convolution, "dense_share", lambda *_: 0.5)
    dm = deltafx.convert(made(BLOCKS["residual"]), backend="cpu")
    for frame in frames(3):
        dm(frame)
    assert not_stored(dm) == set()


def test_pixels_that_windows_read_besides_are_counted(monkeypatch: Any) -> None:
    monkeypatch.setattr(separable, "LEAST_EXPANDED", 0)
    model = made(lambda: Block(16))
    dm, stepped = pair(model)
    picture = torch.zeros(1, 3, HEIGHT, WIDTH)
    for each in (dm, stepped):
        each(picture)
        each(picture)
    picture[..., 20, 30] = 5
    for each in (dm, stepped):
        each(picture)
    assert not_stored(dm) == {"expand", "depthwise"}
    computed = [each.runtime.plans[0].nodes["expand"].leaves[0].tally[COMPUTED].item() for each in (dm, stepped)]
    assert computed == [7 * 7, 3 * 3]  # the windows of the 5x5 pixels that the depthwise convolution computes


def test_what_takes_long_to_expand_is_stored(monkeypatch: Any) -> None:
    monkeypatch.setattr(separable, "LEAST_EXPANDED", 0)
    for most, within in ((9, {"expand", "depthwise"}), (8, {"depthwise"})):
        monkeypatch.setattr(separable, "MOST_TERMS", most)
        dm, stepped = pair(made(lambda: Block(16)))
        for frame in frames(3):
            assert_same(dm, stepped, frame)
        assert not_stored(dm) == within
