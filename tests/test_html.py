"""The page, and that its numbers are the report's and the benchmark's."""

import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

import deltafx
from deltafx.networks import UNIT
from deltafx.scene import scene
from deltafx.views import page
from tests.clips import write
from tests.views.shown import in_parts, model, shown

LIB = Path(page.__file__).parent / "lib"


def content(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A page of a clip, with what was measured, and the converted network."""
    folder = tmp_path_factory.mktemp("html")
    clip = write(folder / "clip.avi", list(scene(6, noise=1)))
    dm = deltafx.convert(model(), mode="balanced", preprocess=UNIT, options={"profile": True})
    done = deltafx.html(dm, folder / "page.html", dense=model(), clip=clip, frames=5)
    return folder / "page.html", done, dm


def test_page_report_and_benchmark_agree(measured):
    path, done, dm = measured
    told, report = content(path), deltafx.report(dm)
    assert told["report"] == json.loads(json.dumps(report.to_dict()))
    assert told["run"] == json.loads(json.dumps(done.result))
    (mode,) = told["run"]["modes"]
    by_frame = told["run"]["by_frame"]["balanced"]
    assert mode["report"] == json.loads(json.dumps(report.totals))
    assert told["run"]["frames"] == 5 == len(by_frame["macs"]) + 1 == report.frames + 1
    assert mode["macs"] == pytest.approx(report.totals["macs_mean"], abs=1)
    assert by_frame["macs"][-1] == report.totals["macs"]
    assert told["run"]["dense"]["macs"] == report.totals["macs_dense"]
    assert mode["update_rate"] == pytest.approx(report["dense_to_delta.x"].update_rate_mean)
    assert mode["ms"] == pytest.approx(sum(by_frame["ms"]) / 4)
    assert 0 < report.totals["milliseconds_mean"] < mode["ms"]  # the nodes are a part of the frame
    assert told["subtrees"][0]["milliseconds_mean"] == pytest.approx(report.totals["milliseconds_mean"])


def test_pictures_of_where_it_computes(measured):
    maps = content(measured[0])["maps"]
    assert [each["node"] for each in maps][:2] == ["dense_to_delta.x", "stem"]
    assert maps[-1]["node"] == "head"
    assert all(each["picture"].startswith("data:image/jpeg;base64,") for each in maps)


def test_the_dense_model_is_not_changed(tmp_path):
    dense = model()
    strides = dense.stem.weight.stride()
    dm = deltafx.convert(dense, preprocess=UNIT)
    deltafx.html(dm, tmp_path / "page.html", dense=dense, clip=scene(3), frames=2)
    assert dense.stem.weight.stride() == strides


def test_without_a_clip_it_shows_what_ran(tmp_path):
    assert deltafx.html(shown(), tmp_path / "page.html", title="<Two>") is None
    told = content(tmp_path / "page.html")
    assert (told["run"], told["maps"], told["title"]) == (None, [], "<Two>")
    assert "<title>&lt;Two&gt;</title>" in (tmp_path / "page.html").read_text()
    assert told["report"]["nodes"][1]["path"] == "stem"
    assert set(told["history"]) == {""}


def test_of_a_model_in_parts(tmp_path):
    deltafx.html(in_parts(), tmp_path / "page.html")
    told = content(tmp_path / "page.html")
    assert set(told["history"]) == {"backbone", "neck"}
    assert ["backbone.add", "dense_to_delta.input", 3 * 24 * 32, True] in told["graph"]["edges"]


def test_before_the_first_frame(tmp_path):
    deltafx.html(deltafx.convert(model()), tmp_path / "page.html")
    assert "Nothing has run yet" in content(tmp_path / "page.html")["hints"][0]["text"]


def test_no_content_ends_the_script():
    text = page.render("t", {"a": "</script><!--", "b": float("nan")})
    assert content_of(text) == {"a": "</script><!--", "b": None}


def content_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def test_nothing_in_it_is_fetched(tmp_path):
    deltafx.html(shown(), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text.split("</head>")[1])
    assert "default-src 'none'" in text
    assert "sourceMappingURL" not in text


def test_libraries_are_the_published_files():
    libraries = json.loads((LIB / "libraries.json").read_text())
    files = {path.name for path in LIB.iterdir()} - {"libraries.json", "LICENCES.txt"}
    assert {each["file"] for each in libraries} == files
    for each in libraries:
        assert hashlib.sha256((LIB / each["file"]).read_bytes()).hexdigest() == each["sha256"]
        assert f"{each['package']} ({each['licence']})" in (LIB / "LICENCES.txt").read_text()


@pytest.mark.parametrize("given", [{"clip": []}, {"dense": model()}])
def test_clip_and_dense_belong_together(tmp_path, given):
    with pytest.raises(ValueError, match="clip and dense belong together"):
        deltafx.html(shown(), tmp_path / "page.html", **given)


def test_a_clip_needs_preprocess(tmp_path):
    with pytest.raises(ValueError, match=r"convert it with preprocess=deltafx\.Preprocess"):
        deltafx.html(deltafx.convert(model()), tmp_path / "page.html", dense=model(), clip=scene(2))


def test_without_pillow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "deltafx.picture", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    dm = deltafx.convert(model(), preprocess=UNIT)
    for call in (
        lambda: deltafx.html(dm, tmp_path / "page.html", dense=model(), clip=scene(2)),
        lambda: deltafx.record(dm, scene(2), tmp_path / "film.mp4"),
    ):
        with pytest.raises(ImportError, match=r"pip install 'deltafx\[demo\]'"):
            call()
    assert not list(tmp_path.iterdir())
    deltafx.html(dm, tmp_path / "page.html")  # without a clip it needs none
