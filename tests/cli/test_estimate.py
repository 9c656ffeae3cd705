def test_modes_and_verdict(run, model, clip):
    done = run("estimate", clip, "--model", model)
    assert done.code == 0
    for word in ("street.avi", "dense", "exact", "balanced", "fast"):
        assert word in done.out
    assert done.out.strip().splitlines()[-1].startswith(("Yes: ", "No: "))


def test_json(run, model, clip):
    done = run("estimate", clip, "--model", model, "--json")
    assert [mode["mode"] for mode in done.json["modes"]] == ["exact", "balanced", "fast"]
    assert isinstance(done.json["pays"], bool)


def test_missing_file(run, model):
    done = run("estimate", "none.mp4", "--model", model)
    assert (done.code, done.err) == (1, "deltafx estimate: none.mp4: no such file")
