"""A recorded episode as a small animated GIF, for programs that show no video."""

from io import BytesIO
from pathlib import Path
from typing import Any

from msgspec import Struct

MOST_FRAMES = 100
WIDEST = 200  # pixels
SECONDS = 5.0  # of the animation


class Animation(Struct, frozen=True):
    """The bytes of a GIF, and its size in pixels."""

    data: bytes
    width: int
    height: int


def animation(video: Path) -> Animation | None:
    """Return a video in few small frames; ``None`` without the extra ``video``, or without frames.

    Raises:
        OSError: The file cannot be read or is no video.
    """
    try:
        import av
        from PIL import Image
    except ImportError:
        return None
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        length = float(container.duration or 0) / 1e6 * float(stream.average_rate or 25)
        step = max(1, round(length / MOST_FRAMES))
        frames: list[Any] = []
        decoded: Any = container.decode(stream)
        for number, frame in enumerate(decoded):
            if number % step == 0 and len(frames) < 2 * MOST_FRAMES:
                image = frame.to_image()
                height = max(1, round(image.height * WIDEST / image.width))
                frames.append(
                    image.resize((WIDEST, height)).quantize(64, Image.Quantize.FASTOCTREE)
                )
    if not frames:
        return None
    file = BytesIO()
    frames[0].save(
        file, "GIF", save_all=True, append_images=frames[1:], loop=0,
        duration=max(20, round(1000 * SECONDS / len(frames))),
    )  # fmt: skip
    return Animation(file.getvalue(), *frames[0].size)
