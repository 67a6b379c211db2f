"""Videos have bounds, and whatever is missing or full is one line, with nothing left behind."""

import errno
import importlib.util

import av
import numpy as np
import pytest

from soulsai.client.video import VideoFault, VideoLimits, VideoWriter, check_codec

FPS = 10


def picture(number, height=90, width=120):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def written(path, pictures, limits):
    writer = VideoWriter(path, FPS, limits)
    for number in range(pictures):
        writer.add(picture(number), f"return {number}")
    writer.close()
    return writer


def frames(path):
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def test_a_video_is_cut_after_its_seconds(tmp_path):
    writer = written(tmp_path / "a.webm", 12, VideoLimits(seconds=0.5))
    assert (writer.frames, writer.cut) == (5, "cut after 0.5 s")
    assert len(frames(tmp_path / "a.webm")) == 5


def test_a_video_is_cut_after_its_bytes(tmp_path):
    whole = written(tmp_path / "whole.webm", 200, VideoLimits(seconds=60))
    assert not whole.is_cut
    size = (tmp_path / "whole.webm").stat().st_size
    limit = size / 4
    writer = written(tmp_path / "a.webm", 200, VideoLimits(seconds=60, megabytes=limit / 1e6))
    assert writer.cut == f"cut after {limit / 1e6:g} MB"
    # The encoder holds a second of frames back, whatever the limit is.
    assert limit <= (tmp_path / "a.webm").stat().st_size < size / 2
    assert len(frames(tmp_path / "a.webm")) == writer.frames < 100


@pytest.mark.parametrize("ending", [".webm", ".mp4"])
def test_small_and_odd_pictures_get_room_for_a_caption(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    writer = VideoWriter(path, FPS, VideoLimits())
    writer.add(np.full((21, 31, 3), 200, np.uint8), "return 1")
    writer.close()
    (shown,) = frames(path)
    height, width, _ = shown.shape
    assert width >= 200
    assert height % 2 == width % 2 == 0
    below = shown[-20:]
    assert below.max() > 150, "something is written there"
    assert np.median(below) < 60, "on a dark ground"
    assert np.median(shown[: height // 2]) > 150


def test_a_picture_of_another_form_is_refused_with_what_to_return(tmp_path):
    writer = VideoWriter(tmp_path / "a.webm", FPS, VideoLimits())
    with pytest.raises(VideoFault, match=r"render gives float64 \(4, 4\) .*=\"rgb_array\""):
        writer.add(np.zeros((4, 4)), "")
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_codec_or_a_package_that_is_missing_is_named_with_its_mend(tmp_path, monkeypatch):
    with pytest.raises(VideoFault, match=r"a\.avi: name a file that ends in \.webm or \.mp4"):
        check_codec(tmp_path / "a.avi")
    with monkeypatch.context() as patch:
        patch.setattr(av, "codecs_available", {"mpeg4"})
        with pytest.raises(VideoFault, match=r"no codec libvpx-vp9; .*--force-reinstall av"):
            VideoWriter(tmp_path / "a.webm", FPS, VideoLimits())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VideoFault, match=r'av, PIL: not installed; pip install "soulsai\[video\]"'):
        VideoWriter(tmp_path / "a.webm", FPS, VideoLimits())
    assert list(tmp_path.iterdir()) == []


class FullDisk:
    """A file on a disk that has some bytes left."""

    def __init__(self, inner, left):
        self._inner, self._left = inner, left

    def write(self, data):
        if len(data) > self._left:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._left -= len(data)
        return self._inner.write(data)

    def __getattr__(self, name):
        return getattr(self._inner, name)


def add_many(writer, count):
    for number in range(count):
        writer.add(picture(number), "")


@pytest.mark.parametrize("left", [0, 30_000])
def test_a_full_disk_is_an_error_of_the_disk_and_leaves_nothing(tmp_path, left):
    writer = VideoWriter(tmp_path / "a.webm", FPS, VideoLimits())
    writer._file._inner = FullDisk(writer._file._inner, left)
    with pytest.raises(OSError, match="No space left") as caught:
        add_many(writer, 200)
    assert caught.value.errno == errno.ENOSPC
    writer.discard()
    assert list(tmp_path.iterdir()) == []
