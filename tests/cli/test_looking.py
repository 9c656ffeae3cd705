"""The commands that look into a network: inspect, draw, explore, record, bench, html."""

import csv
import json
import shutil

import pytest
from typer.testing import CliRunner

from deltafx.cli import app
from deltafx.video import Video

MODES = ["exact", "balanced", "fast"]
LOOKING = ("inspect", "draw", "explore", "record", "bench", "html")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new" / "folder"  # it is made


def test_inspect_says_what_there_is_and_what_to_do(run, model, clip):
    done = run("inspect", model, "--clip", clip, "--frames", 4)
    assert done.code == 0
    assert done.out.splitlines()[0].split()[:3] == ["node", "operator", "kernel"]
    assert " ms" in done.out.splitlines()[0]
    assert "the mean of 3 frames" in done.out  # the first is in full
    assert "what to do next:\n* " in done.out


def test_inspect_modules_and_history(run, model, clip):
    done = run("inspect", model, "--clip", clip, "--frames", 2, "--modules", "--history")
    assert done.out.splitlines()[0].split()[:2] == ["dense", "operator"]
    assert "fuse_pointwise: " in done.out
    assert "\nmodule  nodes" in done.out


def test_inspect_shows_what_one_pass_did(run, model, clip):
    done = run("inspect", model, "--clip", clip, "--frames", 2, "--pass", "rewrite_to_delta")
    lines = done.out.splitlines()
    assert lines[0].startswith("rewrite_to_delta: ")
    assert any(line.startswith("+ dense_to_delta") for line in lines)
    done = run("inspect", model, "--pass", "rewrite")
    assert (done.code, "unknown pass 'rewrite'" in done.err) == (1, True)


def test_inspect_json_csv_and_graphml(run, model, clip, tmp_path):
    words = ["--csv", tmp_path / "nodes.csv", "--graphml", tmp_path / "graph.graphml"]
    done = run("inspect", model, "--clip", clip, "--frames", 3, "--json", "--history", *words)
    assert done.json["frames"] == 2
    assert done.json["size"] == [64, 96]
    assert done.json["subtrees"][0]["macs"] == done.json["totals"]["macs"]
    assert done.json["hints"]
    assert done.json["history"][""]["pairs"]
    with (tmp_path / "nodes.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [node["path"] for node in done.json["nodes"]]
    assert (tmp_path / "graph.graphml").read_text().startswith("<?xml")


def test_without_a_clip_there_is_a_made_up_scene(run, model):
    done = run("inspect", model, "--frames", 2, "--json")
    assert done.json["size"] == [32, 32]  # that of the ONNX file
    done = run("inspect", model, "--size", "64x32", "--frames", 3, "--json")
    assert (done.json["clip"], done.json["size"]) == ("a made-up scene", [32, 64])
    assert 0 < done.json["nodes"][0]["update_rate_mean"] < 1


def test_a_size_that_the_network_does_not_take(run, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build(): return nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(64, 2))\n"
    )
    for command in ("inspect", "bench"):
        target = [f"{tmp_path / 'net.py'}:build"]
        done = run(command, *(target if command == "inspect" else ["--model", *target]), "--size", "16x16")
        assert (done.code, done.out) == (1, "")
        assert "cannot run on frames of 16x16, of three colours. Give another --size" in done.err
        assert "It says: mat1 and mat2 shapes cannot be multiplied" in done.err


def test_a_function_in_a_file_is_a_network(run, tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 5\n")
    (tmp_path / "net.py").write_text("import torch, beside\ndef build(): return torch.nn.Conv2d(3, beside.WIDTH, 3)\n")
    done = run("inspect", f"{tmp_path / 'net.py'}:build", "--size", "32x24", "--frames", 2, "--json")
    assert done.json["nodes"][1]["operator"] == "conv2d"
    done = run("inspect", f"{tmp_path / 'net.py'}:bild")
    assert (done.code, "unknown function in" in done.err, "Did you mean 'build'" in done.err) == (1, True, True)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is missing: apt-get install graphviz")
def test_draw(run, model, clip, out):
    done = run("draw", out / "graph.svg", "--model", model, "--clip", clip, "--frames", 2, "--by", "milliseconds")
    assert (done.code, done.out) == (0, f"picture: {out / 'graph.svg'}\n")
    assert "<svg" in (out / "graph.svg").read_text()


def test_draw_json(run, model, clip, out):
    done = run("draw", out / "graph.dot", "--model", model, "--clip", clip, "--frames", 2, "--json")
    assert done.json["picture"] == str(out / "graph.dot")
    assert "digraph" in (out / "graph.dot").read_text()


def test_draw_refuses_before_anything_runs(run, model):
    done = run("draw", "graph.jpeg", "--model", "no such network")
    assert (done.code, "suffix is expected" in done.err) == (1, True)


def test_explore(run, model, clip, out):
    pytest.importorskip("model_explorer")
    done = run("explore", out, "--model", model, "--clip", clip, "--frames", 2)
    assert done.out.startswith(f"model-explorer {out}/model.json --node_data_paths=")
    done = run("explore", out, "--model", model, "--clip", clip, "--frames", 2, "--json")
    assert done.json["model"] == str(out / "model.json")
    assert len(done.json["node_data"]) == 4


def test_record(run, model, clip, out):
    done = run("record", out / "film.mp4", "--model", model, "--clip", clip, "--frames", 4, "--json")
    assert (done.json["frames"], done.json["size"], done.json["mode"]) == (4, [64, 96], "balanced")
    with Video(out / "film.mp4") as film:
        assert film.announced == 4


def test_record_keeps_what_was_done(run, model, broken, out, clip, interrupted):
    done = run("record", out / "film.mp4", "--model", model, "--clip", clip)
    interrupted.undo()
    assert done.code == 130
    with Video(out / "film.mp4") as film:
        assert film.announced == 4
    done = run("record", out / "film.mp4", "--model", model, "--clip", broken, "--json")
    assert (done.code, "ends after frame" in done.json["stopped"]) == (3, True)


def test_bench(run, model, clip, out):
    done = run("bench", "--model", model, "--clip", clip, "--frames", 4, "--out", out / "bench.json")
    assert [line.split()[0] for line in done.out.splitlines()[-5:] if line.strip()] == ["dense", *MODES]
    told = json.loads((out / "bench.json").read_text())
    assert [mode["mode"] for mode in told["modes"]] == MODES
    for mode in told["modes"]:
        low, high = mode["ms_quartiles"]
        assert low <= mode["ms_median"] <= high
        assert mode["report"]["macs_mean"] == pytest.approx(mode["macs"], abs=1)
        assert mode["report"]["milliseconds"] is None
    done = run("bench", "--model", model, "--clip", clip, "--frames", 3, "--profile", "--json")
    assert all(0 < mode["report"]["milliseconds_mean"] < mode["ms"] for mode in done.json["modes"])


def test_html(run, model, clip, out):
    done = run("html", out / "page.html", "--model", model, "--clip", clip, "--frames", 3, "--json")
    assert done.json["page"] == str(out / "page.html")
    assert done.json["report"]["totals"] == done.json["modes"][0]["report"]
    assert "tiny.onnx, balanced" in (out / "page.html").read_text()


@pytest.fixture(scope="module")
def calibration(model, clip, folder):
    path = folder / "calibration.json"
    words = ["calibrate", clip, "--model", model, "--target-speedup", 1.5, "--refresh-every", 7, "-o", path]
    assert CliRunner().invoke(app, list(map(str, words))).exit_code == 0
    return path


@pytest.mark.parametrize("command", [*LOOKING, "run", "compare"])
def test_a_saved_calibration_takes_the_place_of_the_mode(run, model, clip, out, calibration, command):
    if command == "explore":
        pytest.importorskip("model_explorer")
    files = {"draw": "a.dot", "explore": "", "record": "a.mp4", "html": "a.html"}
    first = [out / files[command]] if command in files else [clip] if command in ("run", "compare") else []
    target = [model] if command == "inspect" else ["--model", model]
    shown = [] if command in ("run", "compare") else ["--clip", clip]
    words = [command, *first, *target, *shown, "--frames", 4, "--threshold", calibration, "--json"]
    done = run(*words)
    assert done.code == 0
    modes = [each["mode"] for each in done.json["modes"]] if "modes" in done.json else [done.json["mode"]]
    assert modes == ([*MODES, "calibrated"] if command == "bench" else ["calibrated"])
    if command in ("inspect", "html"):
        report = done.json if command == "inspect" else done.json["report"]
        given = json.loads(calibration.read_text())["thresholds"]
        assert {node["path"] for node in report["nodes"] if node["threshold"]} >= {
            path for path, value in given.items() if value
        }
        assert report["mode"] == "calibrated"


def test_the_calibration_of_another_network(run, clip, calibration, tmp_path):
    (tmp_path / "net.py").write_text("import torch\ndef build(): return torch.nn.Conv2d(3, 2, 3)\n")
    done = run("inspect", f"{tmp_path / 'net.py'}:build", "--clip", clip, "--threshold", calibration)
    assert (done.code, "the calibration is for another network" in done.err) == (1, True)
    done = run("inspect", f"{tmp_path / 'net.py'}:build", "--threshold", "none.json")
    assert (done.code, "unknown calibration 'none.json'" in done.err) == (1, True)


@pytest.mark.parametrize("command", LOOKING)
def test_what_cannot_be_opened(run, model, tmp_path, command):
    target = {"inspect": [model], "bench": ["--model", model]}.get(command, [tmp_path / "a.dot", "--model", model])
    if command == "explore":
        pytest.importorskip("model_explorer")
    done = run(command, *target, "--clip", "none.mp4")
    assert (done.code, done.out, done.err) == (
        1, "", f"note: frames are given to it as RGB in 0..1; --mean and --std say otherwise "
        f"deltafx {command}: none.mp4: no such file",
    )  # fmt: skip


@pytest.mark.parametrize("command", LOOKING)
def test_one_frame_is_refused(run, command):
    assert run(command, "x", "--frames", 1).code == 2


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("inspect mobilenet_v3_s", ["mobilenet_v3_small"]),
        ("reco", ["record"]),
        ("draw --model resnext50", ["resnext50_32x4d"]),
        ("draw --by ma", ["macs"]),
        ("html --mode ba", ["balanced"]),
        ("html --thr", ["--threshold"]),
        ("bench --threshold cen", ["centerface"]),
        ("calibrate a.mp4 --metric key", ["keypoints"]),
        ("calibrate a.mp4 --method gr", ["greedy"]),
    ],
)
def test_words_are_completed_in_a_shell(words, completed):
    given = {"COMP_WORDS": f"deltafx {words}", "COMP_CWORD": str(len(words.split()))}
    done = CliRunner().invoke(app, [], prog_name="deltafx", env={"_DELTAFX_COMPLETE": "complete_bash", **given})
    assert done.stdout.split() == completed
