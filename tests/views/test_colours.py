import pytest

from deltafx.views.colours import STOPS, UNKNOWN, colour_of, rgb_of


def test_stops_have_their_colours():
    assert [rgb_of(share) for share, _ in STOPS] == [colour for _, colour in STOPS]


@pytest.mark.parametrize(("share", "like"), [(-1.0, 0.0), (2.0, 1.0)])
def test_what_is_outside_is_at_the_end(share, like):
    assert colour_of(share) == colour_of(like)


def test_between_stops_it_is_between():
    low, high = rgb_of(0.5), rgb_of(1.0)
    assert all(min(a, b) <= x <= max(a, b) for x, a, b in zip(rgb_of(0.75), low, high, strict=True))


def test_what_is_not_known_is_grey():
    assert colour_of(None) == UNKNOWN
