"""Videos of episodes: frames with a caption, encoded by PyAV, whose wheels bring the codecs.

imageio-ffmpeg would bring a program of its own and a pipe to it; PyAV encodes in this process and
writes to a file that we bound.
"""

import functools
import importlib.util
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from soulsai.errors import SoulsAIError
from soulsai.types import Array

# By the ending of the file: VP9 is free and every browser plays it; chats prefer H.264.
CODECS = {".webm": "libvpx-vp9", ".mp4": "libx264"}
_OPTIONS = {
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "34", "b": "0"},
    "libx264": {"preset": "veryfast", "crf": "26"},
}
WIDEST = 640  # pixels; larger frames are made smaller
CAPTION_HEIGHT = 24  # pixels
KEYFRAME = 25  # frames from one that can be jumped to, to the next
_DARK, _LIGHT = (24, 26, 31), (235, 235, 235)


class VideoFault(SoulsAIError):
    """No video can be made; the message says why and what to do."""


class VideoLimits(Struct, frozen=True):
    """The bounds of one video."""

    seconds: float = 60.0
    megabytes: float = 8.0


def check_codec(path: Path) -> str:
    """Return the codec of a video file; raise ``VideoFault`` if there is none here."""
    codec = CODECS.get(path.suffix.lower())
    if codec is None:
        raise VideoFault(f"{path}: name a file that ends in {' or '.join(CODECS)}")
    missing = [name for name in ("av", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        raise VideoFault(f'{", ".join(missing)}: not installed; pip install "soulsai[video]"')
    import av

    if codec not in av.codecs_available:
        raise VideoFault(
            f"{path}: the installed av has no codec {codec}; install the wheel of PyPI: "
            "pip install --force-reinstall av"
        )
    return codec


class VideoWriter:
    """One video file, which appears under its name when it is complete."""

    def __init__(self, path: Path, fps: int, limits: VideoLimits) -> None:
        """Begin a video.

        Args:
            path: The file, which ends in ``.webm`` or ``.mp4``.
            fps: Frames per second.
            limits: The bounds; frames beyond them are left out.

        Raises:
            VideoFault: The codec is missing.
            OSError: The file cannot be written.
        """
        self.cut = ""  # the reason why later frames were left out
        self.frames = 0
        self._codec = check_codec(path)
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._fps = fps
        self._most_frames = max(1, int(limits.seconds * fps))
        self._seconds, self._megabytes = limits.seconds, limits.megabytes
        self._bytes = 0  # of the encoded frames; the file gets them in portions of some seconds
        self._file = _VideoFile(self._part)
        self._container: Any = None
        self._stream: Any = None

    @property
    def is_cut(self) -> bool:
        """Whether frames are left out by now."""
        return bool(self.cut)

    def __repr__(self) -> str:
        return f"VideoWriter({self._path}, {self.frames} frames)"

    def add(self, frame: Array, caption: str) -> None:
        """Add a frame, unless a bound is reached.

        Args:
            frame: Colours [height, width, 3], bytes.
            caption: One line to write below it.

        Raises:
            VideoFault: The frame is none, or the encoder refuses it.
            OSError: The disk is full.
        """
        if self.cut:
            return
        if self.frames >= self._most_frames:
            self.cut = f"cut after {self._seconds:g} s"
        elif self._bytes > self._megabytes * 1e6:
            self.cut = f"cut after {self._megabytes:g} MB"
        else:
            self._encode(_picture(frame, caption))
            self.frames += 1

    def close(self) -> None:
        """Complete the file; raise ``OSError`` if the disk is full."""
        try:
            if self._container is not None:
                for packet in self._stream.encode():
                    self._container.mux(packet)
                self._container.close()
            self._file.close()
            self._part.replace(self._path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _encode(self, picture: Array) -> None:
        import av

        try:
            if self._container is None:
                self._open(av, picture)
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            for packet in self._stream.encode(image):
                self._bytes += packet.size
                self._container.mux(packet)
        except (ValueError, av.error.FFmpegError) as error:
            if isinstance(error, OSError) and self._file.fault is not None:
                raise self._file.fault from error
            raise VideoFault(f"{self._path}: {' '.join(str(error).split())}") from error

    def _open(self, av: Any, picture: Array) -> None:
        kind = self._path.suffix.lower()[1:]
        self._container = av.open(self._file, "w", format=kind)
        self._stream = self._container.add_stream(self._codec, rate=self._fps)
        self._stream.height, self._stream.width = picture.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = _OPTIONS[self._codec]
        self._stream.codec_context.gop_size = KEYFRAME
        self._stream.codec_context.thread_count = 1


class _VideoFile(RawIOBase):
    """A file that remembers the error that ended it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fault: OSError | None = None
        self.name = str(path)
        self._inner = path.open("wb", buffering=0)

    def write(self, data: Any, /) -> int:
        """Write all data."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._inner.write(view) :]
        except OSError as error:
            self.fault = error
            raise
        return len(data)

    def seek(self, place: int, whence: int = 0, /) -> int:
        """Move to a place, as the index of a video is written last."""
        return self._inner.seek(place, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._inner.tell()

    def writable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._inner.close()
        super().close()


def _picture(frame: Array, caption: str) -> Array:
    """Return a frame of even size with its caption below."""
    from PIL import Image  # of the extra "video"

    given = np.asarray(frame)
    if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8:
        raise VideoFault(
            f"render gives {given.dtype} {given.shape} instead of bytes [height, width, 3]; "
            'return an rgb array for render_mode="rgb_array"'
        )
    if given.shape[1] > WIDEST:
        size = (WIDEST, max(2, round(given.shape[0] * WIDEST / given.shape[1])))
        given = np.asarray(Image.fromarray(given).resize(size))
    factor = max(1, 240 // max(1, given.shape[1]))  # 84 pixels have no room for a caption
    if factor > 1:
        given = given.repeat(factor, 0).repeat(factor, 1)
    height, width = given.shape[:2]
    page = np.empty((height + height % 2 + CAPTION_HEIGHT, width + width % 2, 3), np.uint8)
    page[:height, :width] = given
    page[height:], page[:height, width:] = _DARK, _DARK
    page[-CAPTION_HEIGHT:] = _line(caption, page.shape[1])
    return page


def _line(text: str, width: int) -> Array:
    """Return a picture of one line of text [height, width, 3]."""
    from PIL import Image, ImageDraw

    line = Image.new("RGB", (width, CAPTION_HEIGHT), _DARK)
    ImageDraw.Draw(line).text((6, 4), text, fill=_LIGHT, font=_font())
    return np.asarray(line)


@functools.cache  # reading it takes as long as drawing a line with it
def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=13)
