"""Errors do not grow, in any dtype, with both payloads; `python -m benchmarks.drift` runs 20,000 frames of it."""

import pytest
import torch

from benchmarks.drift import DTYPES, FADES, SETTINGS, run, run_fade


@pytest.mark.parametrize("payload", SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_the_error_at_the_end_is_that_of_the_beginning(dtype, payload):
    first, *_, last = run(dtype, payload, SETTINGS[payload], frames=400, size=48, window=100)
    assert 0 < last <= 1.05 * first  # the clip is a loop: the same withheld changes come again


def test_nothing_withheld_leaves_no_error():
    assert max(run(torch.float32, "value", {}, frames=150, size=48, window=50)) < 1e-6


@pytest.mark.parametrize("name", FADES)
def test_what_a_slow_fade_leaves_does_not_grow_with_it(name):
    found = run_fade(FADES[name], frames=800, size=48)
    assert found["late"] < found["early"] < found["withheld"]
    if "no refresh" not in name:
        assert found["late"] < 0.15 * found["withheld"]
