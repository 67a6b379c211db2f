"""Images that are stacks of frames, of which consecutive ones share all but one."""

from typing import NamedTuple

import numpy as np

from soulsai.types import Array, Leaf

LEAST_BYTES = 1024  # of a frame: of smaller ones, looking for equal ones would not pay


class Stack(NamedTuple):
    """The form of a stack; the newest frame is its last, as Gymnasium stacks them."""

    depth: int  # frames in each
    height: int
    width: int
    last: bool  # frames are the last axis of an image, not the first

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return an image's shape."""
        size = (self.height, self.width)
        return (*size, self.depth) if self.last else (self.depth, *size)

    def frames(self, images: Array) -> Array:
        """Return images [N, ...] as [N, frames, height, width], a view."""
        return images.transpose(0, 3, 1, 2) if self.last else images

    def images(self, frames: Array) -> Array:
        """Return what ``frames`` was given, a view."""
        return frames.transpose(0, 2, 3, 1) if self.last else frames

    def rolls(self, images: Array) -> bool:
        """Say whether each image [N, ...] is the one before it, and one more frame."""
        frames = self.frames(images)
        # frame by frame: over the pixels of interleaved frames at once takes several times as long
        return all(
            np.array_equal(frames[1:, older], frames[:-1, older + 1])
            for older in range(self.depth - 1)
        )

    def unrolled(self, images: Array) -> Array:
        """Return each frame of images that roll once [N + frames - 1, height, width]."""
        frames = self.frames(images)
        return np.concatenate((frames[0], frames[1:, -1]))

    def rolled(self, frames: Array) -> Array:
        """Return the images whose frames these are, a read-only view of overlapping stacks."""
        windows = np.lib.stride_tricks.sliding_window_view(frames, self.depth, axis=0)
        return self.images(windows.transpose(0, 3, 1, 2))


def form_of(image: Leaf) -> Stack:
    """Return the form of an image, whose frames or channels are the first axis or the last."""
    first, second, third = image.shape
    last = third < first
    return Stack(third, first, second, last) if last else Stack(first, second, third, last)


def stack_of(leaf: Leaf) -> Stack | None:
    """Return the form of a leaf that is a stack of large frames of bytes, else nothing."""
    if len(leaf.shape) != 3 or np.dtype(leaf.dtype).itemsize != 1 or leaf.categories:
        return None
    form = form_of(leaf)
    worthwhile = form.depth > 1 and form.height * form.width >= LEAST_BYTES
    return form if worthwhile else None
