import numpy as np
import pytest
import torch
from torchvision.models import mobilenet_v2

from deltafx import demo
from deltafx.models_zoo.assets import AssetError


@pytest.fixture
def offline(monkeypatch):
    """Random weights and noise instead of what the demo fetches."""

    def read_frames(path, count):
        generator = np.random.default_rng(0)
        return iter([generator.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(count)])

    monkeypatch.setattr(demo.mobilenet_v2, "load", lambda: mobilenet_v2().eval())
    monkeypatch.setattr(demo, "read_frames", read_frames)
    monkeypatch.setattr(demo, "SHORT_SIDE", 32)


def test_prints_graph_comparison_and_report(offline, capsys):
    with torch.random.fork_rng():
        demo.main(["--clip", "street.mp4", "--frames", "2", "--mode", "exact"])
    printed = capsys.readouterr().out
    assert "dense_to_delta" in printed
    assert "MobileNetV2, street.mp4, 2 frames of 48x32, mode exact:" in printed


def test_missing_clip_ends_with_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(demo.mobilenet_v2, "load", mobilenet_v2)
    with pytest.raises(SystemExit, match=r"^demo: .*none\.mp4: no such file$"):
        demo.main(["--clip", str(tmp_path / "none.mp4")])


def test_missing_weights_say_how_to_get_them(monkeypatch):
    def load():
        raise AssetError("weights: no network\nBy hand: ...")

    monkeypatch.setattr(demo.mobilenet_v2, "load", load)
    with pytest.raises(SystemExit, match=r"(?s)^demo: weights: no network.*By hand"):
        demo.main([])


@pytest.mark.parametrize("arguments", [["--frames", "0"], ["--mode", "quick"]])
def test_refuses_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        demo.main(arguments)
    assert arguments[1] in capsys.readouterr().err


def test_large_frames_are_reduced_and_small_ones_kept(monkeypatch):
    monkeypatch.setattr(demo, "SHORT_SIDE", 30)
    assert demo._prepare(np.zeros((90, 121, 3), np.uint8)).shape == (1, 3, 30, 40)
    assert demo._prepare(np.zeros((20, 25, 3), np.uint8)).shape == (1, 3, 20, 25)
