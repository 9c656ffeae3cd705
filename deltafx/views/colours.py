"""One scale of colours for update rates and other shares, in every picture."""

from __future__ import annotations

from itertools import pairwise

# ColorBrewer's YlOrRd (Apache-2.0), from light to dark, so that it also reads in grey; green is what does nothing.
STOPS = (
    (0.0, (200, 230, 201)),
    (0.02, (255, 255, 178)),
    (0.1, (254, 217, 118)),
    (0.25, (254, 178, 76)),
    (0.5, (253, 141, 60)),
    (1.0, (227, 74, 51)),
)
UNKNOWN = "#e4e7ec"


def colour_of(share: float | None) -> str:
    """The colour `#rrggbb` of a share of 0 to 1; grey where it is not known."""
    return UNKNOWN if share is None else "#{:02x}{:02x}{:02x}".format(*rgb_of(share))


def rgb_of(share: float) -> tuple[int, int, int]:
    """The colour of a share, each part 0 to 255; what is below 0 or above 1 is taken as those."""
    share = min(max(share, 0.0), 1.0)
    (low, a), (high, b) = next(pair for pair in pairwise(STOPS) if share <= pair[1][0])
    t = (share - low) / (high - low)
    red, green, blue = (round(x + t * (y - x)) for x, y in zip(a, b, strict=True))
    return red, green, blue
