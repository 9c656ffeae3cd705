import pytest

from deltafx.video import Video, read_frames


def test_says_what_it_took(run, model, clip):
    done = run("run", clip, "--model", model, "--mode", "exact")
    assert done.code == 0
    assert done.out.startswith("12 frames of 96x64: ")
    assert "times fewer MACs than dense" in done.out


def test_film_and_json(run, model, clip, tmp_path):
    done = run("run", clip, "--model", model, "--out", tmp_path / "film.mp4", "--frames", 5, "--json")
    assert done.code == 0
    assert (done.json["frames"], done.json["size"], done.json["mode"]) == (5, [64, 96], "balanced")
    assert done.json["macs_ratio"] == pytest.approx(done.json["macs_dense"] / done.json["macs"])
    with Video(tmp_path / "film.mp4") as film:
        assert (film.width, film.announced) == (640, 5)


def test_a_broken_video_leaves_what_was_done(run, model, broken, tmp_path):
    done = run("run", broken, "--model", model, "--out", tmp_path / "film.mp4", "--json")
    assert done.code == 3
    assert "Ended early:" in done.err
    assert len(list(read_frames(tmp_path / "film.mp4"))) == done.json["frames"] < 12


def test_an_interrupt_leaves_what_was_done(run, model, clip, tmp_path, interrupted):
    done = run("run", clip, "--model", model, "--out", tmp_path / "film.mp4")
    interrupted.undo()
    assert done.code == 130
    assert done.out.startswith("4 frames of 96x64: ")
    assert len(list(read_frames(tmp_path / "film.mp4"))) == 4


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ("none.mp4", "deltafx run: none.mp4: no such file"),
        ("97", "deltafx run: camera 97: cannot be opened ("),
        ("rtsp://127.0.0.1:9/x", "deltafx run: rtsp://127.0.0.1:9/x: cannot be opened ("),
    ],
)
def test_what_cannot_be_opened(run, model, video, message):
    done = run("run", video, "--model", model)
    assert (done.code, done.out) == (1, "")
    assert message in done.err
