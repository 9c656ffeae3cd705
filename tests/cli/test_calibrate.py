import json

import deltafx
from deltafx.models_zoo.onnx_file import read_onnx


def test_writes_a_calibration_for_convert(run, model, clip, folder):
    done = run("calibrate", clip, "--model", model, "--max-error", 0.1, "-o", folder / "street.json")
    assert done.code == 0
    assert "fewer MACs" in done.out
    dm = deltafx.convert(read_onnx(model), threshold=str(folder / "street.json"))
    assert dm is not None
    assert deltafx.Calibration.load(folder / "street.json").refresh_touched == 30


def test_json(run, model, clip, folder):
    words = ("--target-speedup", 1.5, "--refresh-every", 5, "-o", folder / "b.json", "--json")
    done = run("calibrate", clip, "--model", model, *words)
    assert done.json["thresholds"] == json.loads((folder / "b.json").read_text())["thresholds"]
    assert done.json["refresh_every"] == 5


def test_an_unknown_metric_is_one_sentence(run, model, clip, folder):
    done = run("calibrate", clip, "--model", model, "--metric", "guess", "-o", folder / "c.json")
    assert done.code == 1
    assert "deltafx calibrate: unknown metric 'guess'" in done.err
    assert not (folder / "c.json").exists()
