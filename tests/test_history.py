"""What the passes did, and which node stands for which layer."""

import copy
import json

import pytest
import torch
from torch import nn

import deltafx
from deltafx.passes import PASSES
from tests.views.shown import in_parts, model, shown


@pytest.fixture
def history():
    return deltafx.history(shown())[""]


def test_every_pass_is_there(history):
    assert [step.name for step in history.passes] == [each.__name__ for each in PASSES]
    json.dumps(history.to_dict())


def test_layers_are_paired_with_the_node_that_computes_them(history):
    pairs = {pair.path: pair for pair in history.pairs()}
    assert (pairs["blocks.0.norm"].operator, pairs["blocks.0.norm"].now) == ("BatchNorm2d", "blocks.0.first")
    assert pairs["blocks.0.first"].now_operator == "conv2d + relu"
    assert pairs["blocks.1.add"].now == "blocks.1.second"
    assert pairs["head"].went_in is None


def test_each_pass_says_what_it_changed(history):
    steps = {step.name: step for step in history.passes}
    assert {line.path for line in steps["fold_affine"].removed} == {"blocks.0.norm", "blocks.1.norm"}
    assert {line.path for line in steps["rewrite_to_delta"].added} == {"dense_to_delta.x", "delta_to_dense.head"}
    (change,) = [pair for pair in steps["fuse_pointwise"].changed if pair[0].path == "blocks.0.first"]
    assert [line.operator for line in change] == ["conv2d", "conv2d + relu"]
    assert steps["take_attention_apart"].did_nothing


def test_a_pass_is_shown_line_by_line(history):
    text = str(history["fold_affine"]).splitlines()
    assert text[0] == history["fold_affine"].summary
    assert "- blocks.0.norm = affine(blocks.0.first)" in text
    steps = str(history["fuse_pointwise"]).splitlines()
    after = steps[[line.startswith("  blocks.0.second = ") for line in steps].index(True) + 1]
    assert after == "  -> blocks.0.second = conv2d + add + relu(blocks.0.first, stem)"
    with pytest.raises(KeyError, match="Did you mean 'fold_affine'"):
        history["fold_afine"]


def test_lines_follow_from_each_other(history):
    lines = {line.path: line for line in history.before}
    for step in history.passes:
        for line in step.removed:
            assert lines.pop(line.path) == line
        for line in step.added:
            assert line.path not in lines
            lines[line.path] = line
        for before, after in step.changed:
            assert lines[before.path] == before
            lines[after.path] = after
    assert set(lines.values()) == set(history.after)


def test_what_is_dropped_says_in_which_pass():
    dm = deltafx.convert(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(), nn.Conv2d(3, 3, 1)).eval())
    (pair,) = [pair for pair in deltafx.history(dm)[""].pairs() if pair.operator == "Dropout"]
    assert (pair.now, pair.went_in) == (None, "drop_inference_noops")
    assert "gone in drop_inference_noops" in str(deltafx.history(dm)[""])


def test_text_has_a_line_for_each_layer_and_each_pass(history):
    text = str(history)
    assert all(line.path in text for line in history.before)
    assert all(step.name in text for step in history.passes)


def test_a_copy_has_it_too(history):
    assert deltafx.history(copy.deepcopy(shown()))[""] == history


def test_of_a_model_in_parts_each_graph_has_its_own():
    histories = deltafx.history(in_parts())
    assert set(histories) == {"backbone", "neck"}
    assert histories["backbone"].before[0].path == "backbone.first"


def test_graphs_of_parts_are_dumped_beside_each_other(tmp_path):
    from tests.views.shown import Decides

    dm = deltafx.convert(model(Decides), dump=tmp_path)
    dm(torch.rand(1, 3, 16, 16))
    assert {path.name for path in tmp_path.iterdir()} == {"backbone", "neck"}
    assert len(list((tmp_path / "neck").iterdir())) == len(PASSES) + 1


def test_what_was_not_converted_is_refused():
    with pytest.raises(TypeError, match=r"history takes what deltafx\.convert returned; got Two"):
        deltafx.history(model())
