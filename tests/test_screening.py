"""The screening design: balanced, and slopes that are right for what is linear, however many settings move at once."""

import math

import pytest

from deltafx.screening import slopes, two_level_design


@pytest.mark.parametrize("count", [1, 2, 7, 18, 43, 60])
def test_any_two_settings_are_balanced(count):
    design = two_level_design(count)
    columns = list(zip(*design))
    assert len(columns) == count
    assert len(design) <= 2 * count + 4
    for i, a in enumerate(columns):
        assert set(a) == {1, -1}
        assert sum(a) == 0
        assert all(sum(x * y for x, y in zip(a, b)) == 0 for b in columns[:i])


def test_slopes_are_those_of_powers():
    at = {"a": 2.0, "b": 0.3, "c": 5.0}

    def run(values):
        return math.log(values["a"] ** 1.5 * values["b"] ** -2), math.log(values["c"])

    first, second = slopes(run, at, 0.1)
    assert first == pytest.approx({"a": 1.5, "b": -2, "c": 0})
    assert second == pytest.approx({"a": 0, "b": 0, "c": 1}, abs=1e-12)


def test_chance_counts_less_than_with_one_setting_at_a_time():
    """Noise of each run is divided by the square root of their number."""
    noise = iter([0.1, -0.1] * 100)
    at = {str(i): 1.0 for i in range(43)}
    (found,) = slopes(lambda values: (math.log(values["7"]) + next(noise),), at, 0.25)
    assert found["7"] == pytest.approx(1, abs=0.15)
    assert max(abs(value) for path, value in found.items() if path != "7") < 0.15
