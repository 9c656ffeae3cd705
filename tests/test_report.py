"""The report: what became of every node, and what the last frames computed."""

import json

import pytest
import torch
from torch import fx, nn

import deltafx
from tests.small import PAYLOADS, frame, small, touched

COLUMNS = {
    "path", "operator", "fused_from", "kernel", "reason", "threshold", "update_rate", "update_rate_mean", "macs",
    "macs_mean", "macs_dense", "state_bytes", "note", "milliseconds", "milliseconds_mean", "inputs", "shape",
    "is_output",
}  # fmt: skip
TOTALS = {
    "graphs", "nodes", "delta_nodes", "dense_nodes", "eager_modules", "macs", "macs_mean", "macs_dense",
    "macs_delta_form", "state_bytes", "predicted_state_bytes", "milliseconds", "milliseconds_mean",
}  # fmt: skip


@fx.wrap
def unknown(x):
    return x.sort(1)[0] @ x


class Mixed(nn.Module):
    """A convolution with an activation, an island, a constant and a residual."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        y = torch.relu(self.conv(x))
        return unknown(y) * self.gain + y


@pytest.fixture(params=PAYLOADS)
def dm(request):
    dm = deltafx.convert(small(Mixed), payload=request.param)
    dm(frame())
    dm(touched(frame()))
    return dm


def test_the_schema(dm):
    content = deltafx.report(dm).to_dict()
    assert set(content) == {"nodes", "backend", "payload", "mode", "frames", "streams", "totals"}
    assert all(set(node) == COLUMNS for node in content["nodes"])
    assert set(content["totals"]) == TOTALS


def test_it_can_be_written_as_json(dm):
    content = deltafx.report(dm).to_dict()
    back = json.loads(json.dumps(content, allow_nan=False))
    assert back["totals"] == content["totals"]
    assert [node["path"] for node in back["nodes"]] == [node["path"] for node in content["nodes"]]


def test_a_node_says_what_it_was_fused_from(dm):
    node = deltafx.report(dm)["conv"]
    assert node.operator == "conv2d + relu"
    assert node.fused_from == ("conv", "relu")
    assert (node.kernel, node.reason) == ("reference" if node.note else "convolve", None)


def test_an_island_says_why_it_is_dense(dm):
    node = deltafx.report(dm)["unknown"]
    assert (node.kernel, node.reason) == ("dense", "no operator is known for it")
    assert node.macs == node.macs_mean == node.macs_dense == 2 * 4 * 8 * 8 * 8
    assert f"dense: unknown (unknown): {node.reason}" in str(deltafx.report(dm))


def test_an_island_that_was_asked_for_says_so():
    dm = deltafx.convert(small(Mixed), keep_dense=["conv"])
    dm(frame())
    assert deltafx.report(dm)["conv"].reason == "named in keep_dense"


def test_macs_of_a_convolution_follow_the_pixels_it_computed(dm):
    node = deltafx.report(dm)["conv"]
    assert node.macs_dense == 2 * 64 * 4 * 3 * 9
    assert node.macs == 9 * 4 * 3 * 9  # one pixel of the frame is nine of the output
    assert node.macs_mean == (node.macs + node.macs_dense) / 2


def test_update_rates_of_the_last_frame_and_since_the_reset(dm):
    node = deltafx.report(dm)["dense_to_delta.x"]
    assert node.update_rate == 1 / 128
    assert node.update_rate_mean == (1 + 1 / 128) / 2
    deltafx.reset(dm)
    assert deltafx.report(dm)["dense_to_delta.x"].update_rate is None
    dm(frame())
    assert deltafx.report(dm)["dense_to_delta.x"].update_rate_mean == 1


def test_totals_are_the_sums(dm):
    report = deltafx.report(dm)
    totals = report.totals
    assert totals["nodes"] == len(report.nodes) == totals["delta_nodes"] + totals["dense_nodes"]
    assert totals["dense_nodes"] == 1
    for name in ("macs", "macs_mean", "macs_dense"):
        assert totals[name] == sum(getattr(node, name) for node in report.nodes)
    assert totals["macs_delta_form"] == totals["macs_dense"] - report["unknown"].macs_dense


def test_frames_and_streams_are_counted(dm):
    assert (deltafx.report(dm).frames, deltafx.report(dm).streams) == (2, 2)
    deltafx.reset(dm)
    assert deltafx.report(dm).frames == 0


def test_before_the_first_frame_only_numbers_are_missing():
    report = deltafx.report(deltafx.convert(small(Mixed), payload="difference", mode="balanced", backend="reference"))
    assert (report.backend, report.payload, report.mode) == ("reference", "difference", "balanced")
    assert report["unknown"].reason == "no operator is known for it"
    assert report["conv"].macs_dense is None
    assert report.totals["macs"] is None
    assert report.totals["delta_nodes"] == len(report.nodes) - 1
    assert "conv2d + relu" in str(report)
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_threshold_is_shown_in_units_of_the_tensor_once_it_is_measured():
    dm = deltafx.convert(small(), threshold={"first": 0.5, "second": deltafx.absolute(2)})
    assert [deltafx.report(dm)[name].threshold for name in ("first", "second", "head")] == [None, 2, None]
    dm(frame())
    assert deltafx.report(dm)["first"].threshold == pytest.approx(0.5 * dm.runtime.scales["first"])


def test_what_is_computed_once_is_called_constant():
    class Encoded(nn.Module):
        def forward(self, x):
            return x + torch.linspace(0, 1, x.shape[3], device=x.device)

    dm = deltafx.convert(Encoded().eval())
    dm(frame())
    constants = [node for node in deltafx.report(dm).nodes if node.kernel == "constant"]
    assert constants
    assert all(node.update_rate is None for node in constants)
    assert "constant" in str(deltafx.report(dm))


def test_the_table_has_a_line_for_each_node(dm):
    report = deltafx.report(dm)
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["node", "operator", "kernel"]
    for node, line in zip(report.nodes, lines[2:], strict=False):
        assert line.startswith(node.path)
    assert max(map(len, lines[: 2 + len(report.nodes)])) <= 140


def test_an_unknown_node_is_named_with_those_that_exist(dm):
    with pytest.raises(KeyError, match=r"unknown node 'cnov'\. Did you mean 'conv'"):
        deltafx.report(dm)["cnov"]


def test_reading_it_changes_nothing(dm):
    before = deltafx.report(dm).to_dict()
    for _ in range(3):
        str(deltafx.report(dm))
    assert deltafx.report(dm).to_dict() == before


def test_it_shows_the_shape_that_was_used_last(dm):
    dm(frame(size=6))
    assert deltafx.report(dm)["conv"].macs_dense == 2 * 36 * 4 * 3 * 9
    dm(touched(frame()))
    assert deltafx.report(dm)["conv"].macs_dense == 2 * 64 * 4 * 3 * 9
    assert deltafx.report(dm).frames == 3
