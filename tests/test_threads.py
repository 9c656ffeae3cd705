"""Tracing changes what a call of any module is, in all of the process: other threads must not notice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import deltafx
from deltafx.flops import flop_counter


class Decides(nn.Module):
    """Is traced in the first frame, part by part."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) if x.mean() > 0 else self.a(x)


def at_once(work: list[Callable[[], Any]]) -> None:
    """In a thread each; raises what one of them raised."""
    failed: list[BaseException] = []

    def run(each: Callable[[], Any]) -> None:
        try:
            each()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


@torch.no_grad()
def follow(model: nn.Module, dm: Any) -> None:
    with torch.no_grad():
        for _ in range(6):
            x = torch.rand(1, 3, 24, 24)  # random numbers of another thread are none of a trace's business
            torch.testing.assert_close(dm(x), model(x), rtol=1e-4, atol=1e-5)


def test_models_in_parts_that_meet_their_first_frames_at_once() -> None:
    for _ in range(4):
        models = [Decides().eval() for _ in range(3)]
        pairs = [(model, deltafx.convert(model)) for model in models]
        at_once([lambda pair=pair: follow(*pair) for pair in pairs])  # type: ignore[misc]


def test_models_that_are_converted_and_run_at_once() -> None:
    def convert_and_follow(kind: Callable[[], nn.Module]) -> None:
        model = kind().eval()
        follow(model, deltafx.convert(model))

    kinds = [Decides, chain, Decides, chain]
    at_once([lambda kind=kind: convert_and_follow(kind) for kind in kinds])  # type: ignore[misc]


def chain(count: int = 8) -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(count)))


def test_a_dense_model_runs_while_it_and_another_are_converted() -> None:
    model, x = chain(20).eval(), torch.rand(1, 3, 24, 24)
    with torch.no_grad():
        want, ended = model(x), threading.Event()

    def run() -> None:
        with torch.no_grad():
            while not ended.is_set():
                assert torch.equal(model(x), want)

    def convert() -> None:
        try:
            for _ in range(4):
                deltafx.convert(model)
                deltafx.convert(chain(20).eval())
        finally:
            ended.set()

    at_once([run, convert])


def test_operations_are_counted_by_the_modules_of_one_thread() -> None:
    counted, other = chain(2).eval(), chain(1).eval()
    x, inside, done = torch.rand(1, 3, 8, 8), threading.Event(), threading.Event()

    def run_another() -> None:
        inside.wait(60)
        with torch.no_grad():
            other(x)
        done.set()

    def wait(*_: Any) -> None:
        inside.set()
        done.wait(60)

    def count() -> None:
        counted[1].register_forward_pre_hook(wait)
        with torch.no_grad(), flop_counter() as flops:
            counted(x)
        assert set(flops.get_flop_counts()) == {"Global", "Sequential", *(f"Sequential.{n}" for n in "01"),
                                                "Sequential.0.0", "Sequential.1.0"}  # fmt: skip

    at_once([run_another, count])
