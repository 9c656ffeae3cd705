import pytest

import deltafx
from deltafx import models_zoo
from deltafx.retune import truncation_points


@pytest.mark.parametrize("name", models_zoo.calibrated())
def test_calibrations_load_by_the_name_of_their_network(name):
    assert name in models_zoo.NAMES
    calibration = deltafx.Calibration.load(name)
    assert calibration.thresholds.keys() == calibration.fingerprint.keys()
    assert calibration.verified.error <= (calibration.max_error or float("inf"))


@pytest.mark.parametrize("name", models_zoo.NAMES)
def test_every_network_of_the_zoo_has_one_that_is_for_it(name):
    entry = models_zoo.load(name)
    dm = deltafx.convert(entry.model, preprocess=entry.preprocess, threshold=name)
    found = {each.path: each.truncation.threshold.value for each in truncation_points(dm).values()}
    assert found == deltafx.Calibration.load(name).thresholds
