"""Stacked frames: consecutive images share all frames but one."""

from typing import NamedTuple

import numpy as np

from soulsai.types import Array, Leaf

LEAST_BYTES = 1024  # of a frame; deduplication of smaller ones costs more than it saves


class FrameStack(NamedTuple):
    """Axes and sizes of an image; the newest frame is the last, as in Gymnasium's wrapper."""

    depth: int  # frames, or channels
    height: int
    width: int
    last: bool  # the frames are the last axis, not the first

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image."""
        size = (self.height, self.width)
        return (*size, self.depth) if self.last else (self.depth, *size)

    def frames(self, images: Array) -> Array:
        """Return a view [N, frames, height, width] of images [N, ...]."""
        return images.transpose(0, 3, 1, 2) if self.last else images

    def images(self, frames: Array) -> Array:
        """Return a view [N, ...] of frames [N, frames, height, width]; inverts ``frames``."""
        return frames.transpose(0, 2, 3, 1) if self.last else frames

    def rolls(self, images: Array) -> bool:
        """Return whether each image [N, ...] equals the previous one shifted by one frame."""
        frames = self.frames(images)
        # A comparison across the pixels of interleaved frames at once is several times slower.
        return all(
            np.array_equal(frames[1:, older], frames[:-1, older + 1])
            for older in range(self.depth - 1)
        )

    def unrolled(self, images: Array) -> Array:
        """Return the distinct frames [N + frames - 1, height, width] of images that roll."""
        frames = self.frames(images)
        return np.concatenate((frames[0], frames[1:, -1]))

    def rolled(self, frames: Array) -> Array:
        """Return images [N, ...] as a read-only view of frames; inverts ``unrolled``."""
        windows = np.lib.stride_tricks.sliding_window_view(frames, self.depth, axis=0)
        return self.images(windows.transpose(0, 3, 1, 2))


def image_axes(image: Leaf) -> FrameStack:
    """Return the axes of an image leaf; the shorter of the first and last axis holds channels."""
    first, second, third = image.shape
    if third < first:
        return FrameStack(third, first, second, last=True)
    return FrameStack(first, second, third, last=False)


def stack_of(leaf: Leaf) -> FrameStack | None:
    """Return the axes of a leaf that stacks large frames of bytes, else ``None``."""
    if len(leaf.shape) != 3 or np.dtype(leaf.dtype).itemsize != 1 or leaf.categories:
        return None
    axes = image_axes(leaf)
    return axes if axes.depth > 1 and axes.height * axes.width >= LEAST_BYTES else None
