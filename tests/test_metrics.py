"""Metrics: 0 for equal results, the task's own measure for others."""

import math

import pytest
import torch

from deltafx.detections import Detections
from deltafx.metrics import METRICS, Detection, Function, Keypoints, Miou, Psnr, Relative, Top1, metric_of


def error(metric, *frames):
    for got, want in frames:
        metric.add(got, want)
    return metric.error


def detections(*scored):
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x, _ in scored]).view(-1, 4)
    return [Detections(boxes, torch.tensor([s for _, s in scored]), torch.zeros(len(scored), dtype=torch.int64))]


def test_relative_is_over_all_frames_and_outputs():
    ones = torch.ones(2, 2)
    assert error(Relative(), ([ones, ones], [ones, ones])) == 0
    assert error(Relative(), ([ones, 2 * ones], [ones, ones])) == pytest.approx(math.sqrt(0.5))
    assert error(Relative(), (ones, ones), (2 * ones, ones)) == pytest.approx(math.sqrt(0.5))
    assert error(Relative(), (ones, torch.zeros(2, 2))) == math.inf
    assert error(Relative(), (ones[:1], ones)) == math.inf


def test_top1_is_the_share_of_other_classes():
    got, want = torch.eye(4), torch.eye(4).flip(0)
    assert error(Top1(), (got, got)) == 0
    assert error(Top1(), (got, got), (got, want)) == 0.5


def test_miou_is_the_mean_over_the_classes_that_occur():
    want = torch.zeros(1, 3, 2, 2)
    want[0, 0, 0], want[0, 1, 1] = 1, 1  # a row of class 0, and one of class 1
    got = want.clone()
    got[0, :, 1, 1] = torch.tensor([1.0, 0, 0])
    metric = Miou()
    assert error(metric, (got, want)) == pytest.approx(1 - (2 / 3 + 1 / 2) / 2)
    assert metric.values() == {"miou": 1 - metric.error}


@pytest.mark.parametrize(("peak", "difference"), [(1.0, 0.01), (255.0, 2.55)])
def test_psnr_of_a_hundredth_of_the_peak_is_40_db(peak, difference):
    want = torch.linspace(0, peak, 100).view(1, 1, 10, 10)
    metric = Psnr()
    assert error(metric, (want + difference, want)) == pytest.approx(0.01, rel=1e-4)
    assert metric.values()["psnr"] == pytest.approx(40, rel=1e-4)
    assert error(Psnr(), (want, want)) == 0


def test_keypoints_count_those_that_moved_far():
    want = torch.zeros(1, 2, 40, 40)
    want[0, 0, 10, 10], want[0, 1, 20, 20] = 1, 1
    near, far = want.clone(), want.clone()
    near[0, 0, 12, 10] = 2
    far[0, 0, 13, 10] = 2
    assert error(Keypoints(), (near, want)) == 0
    assert error(Keypoints(), (far, want)) == 0.5


def test_detection_is_one_minus_f1_with_hysteresis():
    want = detections((0, 0.9), (50, 0.6))
    assert error(Detection(), (want, want)) == 0
    assert error(Detection(), (detections((0, 0.9), (50, 0.4)), want)) == 0  # still seen
    assert error(Detection(), (detections((0, 0.9)), want)) == pytest.approx(1 - 2 * 0.5 / 1.5)


def test_detection_reads_dictionaries_and_uses_postprocess():
    (want,) = detections((0, 0.9))
    record = {"boxes": want.boxes, "scores": want.scores, "labels": want.labels}
    assert error(Detection(), ([record], [record])) == 0
    assert error(Detection(lambda outputs: [want]), (torch.zeros(1), torch.zeros(1))) == 0
    with pytest.raises(ValueError, match="give postprocess=function"):
        error(Detection(), (torch.zeros(2), torch.zeros(2)))


def test_the_distance_of_detections_grows_smoothly():
    want = detections((0, 0.9), (50, 0.6))
    metric = Detection()
    distances = [metric.distance(detections((0, 0.9), (50, s)), want)[0] for s in (0.6, 0.5, 0.3, 0.1)]
    assert distances == sorted(distances)
    assert distances[0] == 0
    assert metric.distance(detections((0, 0.9), (50, 0.6), (90, 0.5)), want)[0] == pytest.approx(0.09)


def test_mean_average_precision_is_told_where_torchmetrics_is_there():
    pytest.importorskip("torchmetrics")
    pytest.importorskip("pycocotools")
    metric = Detection()
    metric.add(detections((0, 0.9)), detections((0, 0.9)))
    assert metric.values()["map"] == pytest.approx(1)


def test_names_functions_and_metrics_are_taken():
    assert {type(metric_of(name, None)) for name in METRICS} == set(METRICS.values())
    assert isinstance(metric_of(None, None), Relative)
    assert isinstance(metric_of(lambda a, b: 0.5, None), Function)
    used = Relative()
    used.add(torch.zeros(1), torch.ones(1))
    assert metric_of(used, None).error == 0
    assert error(metric_of(lambda a, b: float(a - b), None), (3, 1), (1, 1)) == 1
