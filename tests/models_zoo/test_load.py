import pytest

from deltafx import models_zoo


def test_an_unknown_name_is_refused():
    with pytest.raises(
        ValueError, match=r"unknown network 'centrface'\. Did you mean 'centerface'\? Known: centerface"
    ):
        models_zoo.load("centrface")
