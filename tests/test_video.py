import numpy as np
import pytest

from deltafx.video import read_frames

av = pytest.importorskip("av")


def _write_clip(path, frames, codec="ffv1", pixel_format="bgr0"):
    """Writes a lossless clip."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def frames():
    return list(np.random.default_rng(0).integers(0, 256, (5, 18, 22, 3), dtype=np.uint8))


@pytest.mark.parametrize(("count", "expected"), [(None, 5), (3, 3), (99, 5), (0, 0)])
def test_reads_rgb_frames_in_order(tmp_path, frames, count, expected):
    _write_clip(tmp_path / "clip.mkv", frames)
    read = list(read_frames(tmp_path / "clip.mkv", count))
    assert len(read) == expected
    for got, written in zip(read, frames):
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, written)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"clip\.mp4: no such file"):
        next(read_frames(tmp_path / "clip.mp4"))


def test_file_that_is_no_video(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(bytes(range(256)) * 16)
    with pytest.raises(ValueError, match=r"clip\.mp4: not a video that can be read"):
        next(read_frames(tmp_path / "clip.mp4"))


def test_file_without_a_video_track(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"sound\.wav: the file has no video track"):
        next(read_frames(tmp_path / "sound.wav"))


def test_video_without_frames(tmp_path, frames):
    with av.open(str(tmp_path / "empty.avi"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width = 18, 22
        stream.pix_fmt = "bgr0"
        container.start_encoding()
    with pytest.raises(ValueError, match=r"empty\.avi: the video has no frames"):
        next(read_frames(tmp_path / "empty.avi"))


def test_negative_count(tmp_path):
    with pytest.raises(ValueError, match="count is -1"):
        next(read_frames(tmp_path / "clip.mp4", -1))
