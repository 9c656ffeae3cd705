import itertools

import numpy as np
import pytest

from deltafx.video import Video, VideoError, VideoWriter, read_frames
from tests.clips import scene, write

av = pytest.importorskip("av")


@pytest.fixture
def frames():
    return list(np.random.default_rng(0).integers(0, 256, (5, 18, 22, 3), dtype=np.uint8))


@pytest.mark.parametrize(("count", "expected"), [(None, 5), (3, 3), (99, 5), (0, 0)])
def test_reads_rgb_frames_in_order(tmp_path, frames, count, expected):
    write(tmp_path / "clip.mkv", frames)
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


# -- what goes wrong in the middle ------------------------------------------------------------------------------------


def read_until_it_breaks(path):
    read = []
    with Video(path) as video:
        try:
            for frame in video.frames():
                read.append(frame)
        except VideoError as error:
            return read, str(error)
    pytest.fail(f"{path} was read to its end")


def test_a_file_that_breaks_off(tmp_path):
    """What was read before is good, and the message says where it ended."""
    whole = write(tmp_path / "whole.avi", list(scene(20)))
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    read, message = read_until_it_breaks(tmp_path / "cut.avi")
    assert 4 < len(read) < 16
    for got, want in zip(read[:-1], scene(20), strict=False):  # the last one may be half a frame
        np.testing.assert_array_equal(got, want)
    assert f"cut.avi: the file is broken: it ends after frame {len(read)} of 20" in message


def test_a_size_that_changes(tmp_path):
    """In a stream of JPEG pictures every one may have its own size."""
    small, large = (write(tmp_path / f"{n}.mjpeg", list(scene(3, *size)), "mjpeg", "yuvj420p")
                    for n, size in enumerate([(32, 48), (48, 64)]))  # fmt: skip
    (tmp_path / "both.mjpeg").write_bytes(small.read_bytes() + large.read_bytes())
    read, message = read_until_it_breaks(tmp_path / "both.mjpeg")
    assert len(read) == 3
    assert "both.mjpeg: frame 3 is 64x48, those before are 48x32; state belongs to one size" in message


def test_a_turned_video_is_turned_upright(tmp_path, monkeypatch):
    frames = list(scene(3, 32, 48))
    path = write(tmp_path / "phone.mkv", frames)
    monkeypatch.setattr(Video, "turned", staticmethod(lambda frame: 90))
    with Video(path) as video:
        assert (video.height, video.width) == (48, 32)
        assert video.note == f"{path} is stored turned; its frames are turned upright."
        for got, stored in zip(video.frames(), frames, strict=True):
            np.testing.assert_array_equal(got, np.rot90(stored))
    with Video(path) as video:
        assert next(video.frames(1, (24, 16))).shape == (24, 16, 3)


def test_a_camera_that_is_not_there():
    with pytest.raises(VideoError, match=r"camera 97: cannot be opened \(.+\)"):
        Video("97")


def test_a_stream_that_does_not_answer():
    with pytest.raises(VideoError, match=r"rtsp://127\.0\.0\.1:9/x: cannot be opened \(.+\)"):
        Video("rtsp://127.0.0.1:9/x")


# -- parts of it ------------------------------------------------------------------------------------------------------


def test_resized_frames(tmp_path, frames):
    write(tmp_path / "clip.mkv", frames)
    with Video(tmp_path / "clip.mkv") as video:
        assert [frame.shape for frame in video.frames(2, (36, 44))] == [(36, 44, 3)] * 2


def test_facts(tmp_path):
    with Video(write(tmp_path / "clip.avi", list(scene(7, 32, 48)))) as video:
        assert (video.height, video.width, video.rate, video.announced, video.note) == (32, 48, 10, 7, None)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_seek(tmp_path, share):
    frames = list(scene(40, 32, 112))
    path = write(tmp_path / "clip.mp4", frames, "libx264", "yuv444p")
    with Video(path) as video:
        assert video.seek(share)
        (got,) = video.frames(1)
    distances = [np.abs(got.astype(int) - frame).mean() for frame in frames]
    assert np.argmin(distances) == 40 * share


# -- writing ----------------------------------------------------------------------------------------------------------


def test_what_is_written_can_be_read(tmp_path):
    frames = list(scene(6, 33, 47))  # H.264 has even sizes only
    with VideoWriter(tmp_path / "new" / "film.mp4", 12.5) as writer:
        for frame in frames:
            writer.write(frame)
    with Video(tmp_path / "new" / "film.mp4") as video:
        assert (video.height, video.width, video.rate) == (32, 46, 12.5)
        for got, want in itertools.zip_longest(video.frames(), frames):
            assert np.abs(got.astype(int) - want[:32, :46]).mean() < 12  # lossy, and colour has half the resolution


def test_an_interrupted_film_is_finished(tmp_path):

    def interrupted():
        with VideoWriter(tmp_path / "film.mp4", 10) as writer:
            for frame in scene(5):
                writer.write(frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(list(read_frames(tmp_path / "film.mp4"))) == 5


def test_no_frame_no_file(tmp_path):
    with VideoWriter(tmp_path / "film.mp4", 10):
        pass
    assert list(tmp_path.iterdir()) == []
