import pytest

import deltafx
from deltafx import models_zoo


@pytest.mark.parametrize("name", models_zoo.calibrated())
def test_calibrations_load_by_the_name_of_their_network(name):
    assert name in models_zoo.NAMES
    calibration = deltafx.Calibration.load(name)
    assert calibration.thresholds.keys() == calibration.fingerprint.keys()
    assert calibration.verified.error <= (calibration.max_error or float("inf"))
