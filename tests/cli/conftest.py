import json

import pytest
from typer.testing import CliRunner

from deltafx.cli import app
from deltafx.video import Video
from tests.clips import scene, write
from tests.tiny_onnx import write_tiny_onnx


class Outcome:
    """What a command printed, and its exit code."""

    def __init__(self, result):
        self.code, self.out = result.exit_code, result.stdout
        self.err = " ".join(result.stderr.split())  # wherever the lines were broken
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def run():
    return lambda *words: Outcome(CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words]))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def model(folder):
    pytest.importorskip("onnx2torch")
    return write_tiny_onnx(folder / "tiny.onnx")


@pytest.fixture(scope="session")
def clip(folder):
    return write(folder / "street.avi", list(scene(12, noise=1)))


@pytest.fixture(scope="session")
def broken(folder, clip):
    path = folder / "broken.avi"
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    return path


@pytest.fixture
def interrupted(monkeypatch):
    """After four frames of any video."""
    frames = Video.frames

    def four(self, count=None, size=None):
        yield from frames(self, 4, size)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Video, "frames", four)
        yield patch
