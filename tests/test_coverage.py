"""A cross-section of the networks of `deltafx coverage`, and what becomes of those that go wrong."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import deltafx
from deltafx import coverage, coverage_models
from deltafx.coverage import Reason, Row, cover, figures, judged, row_of
from deltafx.coverage_models import SHOWN, Case, all_cases, chosen, pictures_of
from deltafx.parts import NOT_STREAMS
from deltafx.plain_json import to_json

# The least share of the MACs in delta form, of networks that together take all ways through capture.
SHARES = (
    pytest.param("squeezenet1_1", 1, id="plain"),
    pytest.param("shufflenet_v2_x0_5", 1, id="chunks"),
    pytest.param("mobilenet_v3_small", 1, id="gates"),
    pytest.param("lraspp_mobilenet_v3_large", 1, id="mapping of maps"),
    pytest.param("googlenet", 1, id="branches"),
    pytest.param("quantized_mobilenet_v2:float", 1, id="quantizable"),
    pytest.param("mc3_18", 1, id="clip"),
    pytest.param("vit_b_32", 0.99, id="attention"),
    pytest.param("swin_t", 0.99, id="windowed attention"),
    pytest.param("raft_small", 0.8, id="two inputs"),
)


def named(name):
    return next(case for case in all_cases() if case.name == name)


@pytest.mark.parametrize(("name", "share"), SHARES)
def test_matches(name, share):
    row = row_of(named(name))
    assert (row.status, row.why) == ("matches", None)
    assert len(row.errors) == len(row.errors_dense) == 4
    assert row.share >= share
    assert (row.share == 1) is (sum(reason.macs for reason in row.reasons) == 0)
    assert row.islands + row.eager >= sum(reason.nodes for reason in row.reasons) > 0 or not row.reasons


# ---------------------------------------------------------------------------------------------------------------------
# The list


def test_every_network_of_torchvision_has_a_row():
    from torchvision import models

    cases = all_cases()
    assert {case.key for case in cases if case.source == "torchvision"} == set(models.list_models())
    assert len({case.name for case in cases}) == len(cases)
    families = {case.name: case.family for case in cases}
    assert families["swin_t"] == "transformers"
    assert families["swin3d_t"] == "video"
    assert families["quantized_resnet18"] == families["quantized_resnet18:float"] == "quantized"
    assert families["timm:resnet50:features"] == "timm"


def test_a_filter_is_a_part_a_pattern_or_a_family():
    def names(*wanted):
        return {case.name for case in chosen(all_cases(), wanted)}

    assert names("raft") == names("optical flow") == names("raft_large", "raft_small") == {"raft_large", "raft_small"}
    assert names("vit_?_32") == {"vit_b_32", "vit_l_32"}
    with pytest.raises(ValueError, match=r"unknown network 'resnet19'\. Did you mean .*resnet18.* Known: .*alexnet"):
        names("resnet18", "resnet19")


def test_deltas_travel_in_the_second_and_the_last_frame():
    (first,), (second,), (last,) = pictures_of(named("resnet18"))
    assert SHOWN == (0, 1, 1, 2)
    for before, after in ((first, second), (second, last)):
        changed = (before != after).any(1).float().mean()
        assert 0.01 < changed < 0.1


def test_a_detector_takes_a_list():
    ((first,), (second,), *_) = pictures_of(named("ssd300_vgg16"))
    assert [image.shape for image in first] == [(3, 128, 160)]
    assert not torch.equal(first[0], second[0])


def test_no_weight_stays_zero():
    assert coverage_models.build(named("vit_b_32")).heads.head.weight.std() > 0


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong is a row


def test_an_error_is_a_row():
    row = row_of(Case("torchvision", "no_such", "video"))
    assert (row.name, row.family, row.status, row.share) == ("no_such", "video", "failed", None)
    assert row.why.startswith("ValueError: Unknown model no_such")


def test_a_missing_package_is_a_row(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    row = row_of(named("timm:hrnet_w32"))
    assert row.status == "skipped"
    assert "pip install 'deltafx[zoo]'" in row.why


def test_the_reason_has_no_folders(monkeypatch):
    def fail(case):
        raise deltafx.ConvertError("cannot be traced: /home/me/lib/site-packages/net/model.py:7: if x\n  TraceError")

    monkeypatch.setattr(coverage, "build", fail)
    assert row_of(named("resnet18")).why == "cannot be traced: net/model.py:7: if x"


class Deadly(Case):
    """Ends the process that it is sent to."""

    def __reduce__(self):
        return os._exit, (7,)


def test_a_process_that_ends_or_does_not_is_a_row():
    dead, late = cover([Deadly("torchvision", "resnet18", "video")], 60), cover([named("vit_h_14")], 0.01)
    assert next(dead).why == "its process ended with exit code 7"
    assert next(late).why == "not done after 0.01 s"


class Constant(nn.Module):
    def forward(self, x):
        return 0 * x.mean((2, 3))


def test_a_network_that_shows_nothing_fails(monkeypatch):
    monkeypatch.setattr(coverage, "build", lambda case: Constant().eval())
    assert "its result is the same for every frame" in row_of(named("resnet18")).why


# ---------------------------------------------------------------------------------------------------------------------
# The rule


@pytest.mark.parametrize(
    ("errors", "errors_dense", "status"),
    [
        ([3e-6], [1e-6], "matches"),
        ([3e-6, 5e-6], [1e-6, 1e-6], "differs"),
        ([9e-7], [0.0], "matches"),
        ([math.inf], [1e-6], "differs"),
        ([math.nan], [1e-6], "differs"),
    ],
)
def test_rule(errors, errors_dense, status):
    row = judged(Row("n", "video", (1,), "matches"), errors, errors_dense)
    assert (row.status, row.errors) == (status, tuple(errors))
    assert (row.why is None) is (status == "matches")


def test_a_quantized_network_is_equal():
    row = Row("n", "quantized", (1,), "matches")
    assert judged(row, [1e-9], [0.0], plus=0.0).why.startswith("frame 0: relative error 1.0e-09")


def test_a_detector_is_compared_by_its_maps():
    row = row_of(named("ssdlite320_mobilenet_v3_large"))
    assert (row.status, row.parts, row.eager, row.per_proposal, row.share) == ("matches", 2, 0, 0, 1)
    assert 0 < row.errors[0] < 1e-4
    assert row.boxes > row.boxes_lost


def test_a_wrong_map_of_a_detector_differs(monkeypatch):
    def convert(model):
        wrong = copy.deepcopy(model)
        next(wrong.head.regression_head.parameters()).data.mul_(1.01)
        return deltafx.convert(wrong)

    monkeypatch.setattr(coverage, "deltafx", SimpleNamespace(**{**vars(deltafx), "convert": convert}))
    row = row_of(named("ssdlite320_mobilenet_v3_large"))
    assert row.status == "differs"
    assert row.why.startswith("frame 0: relative error ")


def test_what_runs_for_each_proposal_is_left_out_of_the_share():
    row = row_of(named("fasterrcnn_mobilenet_v3_large_320_fpn"))
    assert (row.status, row.parts, row.eager, row.share) == ("matches", 2, 4, 1)
    assert 0.5 < row.per_proposal / row.macs < 0.9
    assert {reason.reason for reason in row.reasons} == {NOT_STREAMS}


def test_a_row_survives_json():
    reasons = (Reason("bmm", "unknown", 2, 6),)
    row = Row("n", "video", (1, 3), "differs", "why", errors=(math.inf, 1e-6), errors_dense=(0.0, 0.0), reasons=reasons)
    assert Row.from_dict(json.loads(to_json(row.to_dict()))) == row


def test_reasons_are_counted():
    nodes = [
        SimpleNamespace(operator=operator, reason=reason, macs_dense=macs)
        for operator, reason, macs in (
            ("roll", "no mask rule", None), ("bmm", "unknown", 4), ("bmm", "unknown", 2), ("Conv", None, 10),
        )
    ]  # fmt: skip
    totals = {
        "graphs": 1, "delta_nodes": 1, "dense_nodes": 3, "eager_modules": 0, "macs_dense": 16, "macs_delta_form": 10,
        "macs": 8,
    }  # fmt: skip
    found = figures(SimpleNamespace(totals=totals, nodes=nodes))
    assert found["reasons"] == (Reason("bmm", "unknown", 2, 6), Reason("roll", "no mask rule", 1, 0))
    assert (found["parts"], found["islands"], found["eager"]) == (1, 3, 0)
    assert (found["share"], found["computed"]) == (10 / 16, 8 / 16)
