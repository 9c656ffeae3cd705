import sys

from deltafx.cli import doctor
from deltafx.ops import OPERATORS


def test_all_is_looked_at(run):
    done = run("doctor", "--json")
    found = {finding["what"]: finding for finding in done.json}
    assert {
        "deltafx",
        "torch",
        "backend cpu",
        "backend cuda",
        "CUDA device",
        "threads",
        "av",
        "timm",
        "npm",
        "dot",
        "model_explorer",
        "cache",
    } <= set(found)
    assert done.code == (0 if found["backend cpu"]["well"] else 1)
    assert all(finding["state"] for finding in found.values())


def test_text(run):
    done = run("doctor")
    assert "backend cuda" in done.out


def test_what_is_missing_has_a_fix(run, monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = {finding["what"]: finding for finding in run("doctor", "--json").json}
    assert found["av"] == {
        "what": "av", "well": False, "state": "not installed; it is for video files, cameras and streams",
        "fix": "pip install 'deltafx[demo]'",
    }  # fmt: skip
    assert found["npm"]["fix"] == "install Node.js"
    assert found["dot"]["fix"].startswith("install Graphviz")
    assert found["backend cpu"]["well"] is False


def test_brackets_are_shown(run, monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'deltafx[demo]'" in run("doctor").out


def test_without_compiled_kernels(run, monkeypatch):
    build_info = sys.modules["deltafx.build_info"]  # deltafx.build_info is the function
    monkeypatch.setattr(build_info, "unavailable", lambda name: None if name == "reference" else "not built")
    done = run("doctor", "--json")
    found = {finding["what"]: finding for finding in done.json}
    assert found["backend cpu"]["state"] == "not built"
    assert found["backend cpu"]["fix"] == doctor.REBUILD
    assert done.code == 1


def test_operators(run):
    families = {family["name"]: family for family in run("doctor", "--operators", "--json").json}
    assert set(families) == {family.__name__ for family in OPERATORS}
    assert families["Conv"]["locality"] == "window"
    assert {"nn.Conv2d", "conv2d"} <= set(families["Conv"]["spellings"])
    assert all(family["spellings"] and family["locality"] for family in families.values())
    compiled = "deltafx._cpu" in sys.modules
    assert families["Conv"]["compiled"] is families["BatchNorm"]["compiled"] is compiled
    assert families["Norm"]["compiled"] is False


def test_operators_as_text(run):
    done = run("doctor", "--operators")
    assert "nn.ConvTranspose2d" in done.out
