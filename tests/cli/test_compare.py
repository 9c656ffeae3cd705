def test_frame_by_frame(run, model, clip):
    done = run("compare", clip, "--model", model, "--mode", "exact", "--frames", 4)
    assert done.code == 0
    assert done.out.splitlines()[0].split() == ["frame", "error", "ms", "dense", "ms", "delta", "MACs"]
    assert "4 frames:" in done.out


def test_json(run, model, clip):
    done = run("compare", clip, "--model", model, "--mode", "exact", "--json")
    assert done.json["mode"] == "exact"
    assert len(done.json["frames"]) == 12
    assert done.json["total"]["relative_error"] < 1e-5


def test_a_broken_video(run, model, broken):
    done = run("compare", broken, "--model", model, "--json")
    assert done.code == 3
    assert 1 < len(done.json["frames"]) < 12
    assert "the file is broken" in done.err


def test_missing_file(run, model):
    done = run("compare", "none.mp4", "--model", model)
    assert (done.code, done.err) == (1, "deltafx compare: none.mp4: no such file")
