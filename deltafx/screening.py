"""How measured numbers change with each of many settings, all at once: a screening design of two levels.

R. L. Plackett and J. P. Burman, The design of optimum multifactorial experiments, Biometrika 33, 1946. Every setting is
raised in one half of the runs and lowered in the other, with all others balanced in both halves. So each slope is the
mean over all runs, where raising one setting at a time would rest it on a single pair of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence


def two_level_design(count: int) -> list[list[int]]:
    """Runs of `count` settings, each +1 or -1, of which any two are balanced: columns are orthogonal, and sum to 0.

    Paley's construction: the rows are turns of the squares modulo a prime q = 3 modulo 4, q + 1 runs in all.
    """
    q = next(n for n in range(max(count, 3), 4 * count + 8) if n % 4 == 3 and is_prime(n))
    squares = {i * i % q for i in range(q)}
    first = [1 if i in squares else -1 for i in range(q)]
    turns = [[first[(i - turn) % q] for i in range(q)] for turn in range(q)]
    return [row[:count] for row in [*turns, [-1] * q]]


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def slopes(
    run: Callable[[dict[str, float]], Sequence[float]], at: Mapping[str, float], step: float
) -> list[dict[str, float]]:
    """Of each number that `run` measures, by the logarithm of each setting: around `at`, by `step` up and down."""
    design = two_level_design(len(at))
    found = [run({name: at[name] * math.exp(step * sign) for name, sign in zip(at, row)}) for row in design]
    return [
        {
            name: sum(row[column] * numbers[which] for row, numbers in zip(design, found)) / (step * len(design))
            for column, name in enumerate(at)
        }
        for which in range(len(found[0]))
    ]
