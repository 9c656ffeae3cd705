"""What to do next: each kind of hint, on reports of a few nodes."""

import dataclasses

import pytest

import deltafx
from deltafx.report import NodeReport, Report
from tests.views.shown import shown

UNKNOWN = {each.name: None for each in dataclasses.fields(NodeReport)}


def node(path, macs=100, rate=0.01, **more):
    known = {"path": path, "operator": "conv2d", "kernel": "convolve", "fused_from": (path,), "macs_mean": macs,
             "update_rate_mean": rate, "inputs": (), "is_output": False}  # fmt: skip
    return NodeReport(**{**UNKNOWN, **known, **more})


def hints(*nodes, mode="balanced", frames=10):
    return Report(nodes, "cpu", "value", mode, frames, 1).hints()


def test_nothing_has_run():
    (hint,) = hints(node("a"), frames=0)
    assert (hint.kind, hint.node) == ("measure", None)


def test_nothing_stands_out():
    assert [hint.text for hint in hints(node("a"), node("b", inputs=("a",)))] == ["Nothing stands out."]


def test_noise_and_what_to_do_in_each_mode():
    (hint,) = hints(node("dense_to_delta.x", rate=0.9), mode="exact")
    assert (hint.kind, hint.share) == ("noise", 0.9)
    assert "Try mode='balanced'" in hint.text
    (hint,) = hints(node("dense_to_delta.x", rate=0.9), mode="fast")
    assert "Raise the input gate's threshold" in hint.text


def test_islands_by_what_they_cost():
    small = node("small", 1, kernel="dense", reason="no operator is known for it")
    large = node("large", 300, kernel="dense", reason="it mixes the batch")
    larger = node("larger", 400, kernel="dense", reason="it mixes the batch")
    found = hints(node("a"), small, large, larger)
    assert [(hint.kind, hint.node) for hint in found] == [("island", "larger"), ("island", "large")]
    assert "takes 50% of the multiply-accumulates: it mixes the batch" in found[0].text


def test_time_counts_where_there_is_any():
    quick = node("quick", 1000, milliseconds_mean=1.0, kernel="dense", reason="x")
    slow = node("slow", 1, milliseconds_mean=99.0, kernel="dense", reason="y")
    (hint,) = hints(quick, slow)
    assert hint.node == "slow"
    assert "99% of the time" in hint.text
    (hint,) = hints(quick, slow, node("unknown", 10))
    assert "of the multiply-accumulates" in hint.text


def test_the_reference_kernel_is_named():
    (hint,) = hints(node("a", note="no kernel for float64"), node("b", 1))
    assert (hint.kind, hint.node) == ("kernel", "a")


def test_modules_outside_are_counted_together():
    outside = [node(f"fc{i}", 100 + i, kernel="eager", reason="its rows are not the streams") for i in range(3)]
    (hint,) = hints(node("a", 100), *outside)
    assert (hint.kind, hint.node) == ("outside", "fc2")
    assert hint.text.startswith("3 modules are outside of the delta graphs and take 75% of the multiply-accumulates")


@pytest.mark.parametrize(("before", "after", "jumps"), [(0.05, 0.4, True), (0.3, 0.45, False), (0.01, 0.08, False)])
def test_a_jump_is_steep_and_high(before, after, jumps):
    found = hints(node("a", rate=before), node("b", rate=after, inputs=("a",)))
    assert [hint.node for hint in found if hint.kind == "jump"] == (["b"] if jumps else [])


def test_a_jump_says_what_threshold_there_is():
    (hint,) = hints(node("a", rate=0.0), node("b", rate=0.5, inputs=("a",)))
    assert "threshold={'b': 0.1, ...}" in hint.text
    (hint,) = hints(node("a", rate=0.0), node("b", rate=0.5, inputs=("a",), threshold=0.25))
    assert "raise its threshold (0.25 now)" in hint.text


def test_of_a_real_network():
    assert "unknown" in [hint.node for hint in deltafx.report(shown()).hints() if hint.kind == "island"]
