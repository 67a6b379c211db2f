"""Videos of greedy episodes on a player's own PC; the newest few are kept."""

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soulsai.client.video import VideoFault, VideoLimits, VideoWriter
from soulsai.errors import EnvironmentFault

RENDER = "rgb_array"  # the render mode that gives pictures

log = logging.getLogger(__name__)


class EpisodeVideos:
    """Records the episodes that it is told to; any failure ends the recording, never the play."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        limits: VideoLimits = VideoLimits(),  # noqa: B008 - it is frozen
        now: Callable[[], float] = time.time,
    ) -> None:
        """Record nothing yet.

        Args:
            folder: The folder of the videos; it is made if it is missing.
            keep: Videos that are kept, the newest.
            limits: The bounds of each.
            now: Unix seconds.
        """
        self.fault = ""  # the reason why nothing is recorded any more
        self._folder, self._keep, self._limits, self._now = folder, keep, limits, now
        self._writer: VideoWriter | None = None
        self._path = folder
        self._version = ""
        self._rewards: list[float] = []

    def __repr__(self) -> str:
        return f"EpisodeVideos({self._folder}, {self._writer})"

    def begin(self, version: tuple[int, int], fps: int, picture: Callable[[], Any]) -> None:
        """Begin the video of an episode with its first picture.

        Args:
            version: Generation and version of the policy that plays.
            fps: Pictures per second.
            picture: Renders the present state.
        """
        self.drop()
        if self.fault:
            return
        self._version, self._rewards = "{}-{}".format(*version), []
        name = f"{int(1000 * self._now())}-{os.getpid()}"
        self._path = self._folder / f"{name}.webm"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = VideoWriter(self._path, fps, self._limits)
            self._show(picture)
        except (VideoFault, OSError, EnvironmentFault) as error:
            self._give_up(error)

    def step(self, reward: float, picture: Callable[[], Any], *, ended: bool) -> None:
        """Add a picture to the episode that is recorded, if there is one.

        Args:
            reward: The reward of the step.
            picture: Renders the state after it.
            ended: Whether it was the last step.
        """
        if self._writer is None:
            return
        self._rewards.append(reward)
        try:
            if not self._writer.is_cut:
                self._show(picture)
            if ended:
                self._finish(self._writer)
        except (VideoFault, OSError, EnvironmentFault) as error:
            self._give_up(error)

    def drop(self) -> None:
        """Discard an unfinished video: the episode was left."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.discard()

    def _show(self, picture: Callable[[], Any]) -> None:
        if self._writer is not None:
            total = math.fsum(self._rewards)
            self._writer.add(picture(), f"version {self._version}   return {total:.1f}")

    def _finish(self, writer: VideoWriter) -> None:
        self._writer = None
        writer.close()
        total = math.fsum(self._rewards)
        self._path.rename(
            self._path.with_name(f"{self._path.stem}_{self._version}_{total:.1f}.webm")
        )
        for old in sorted(self._folder.glob("[0-9]*-[0-9]*_*.webm"))[: -self._keep]:
            old.unlink(missing_ok=True)

    def _give_up(self, error: Exception) -> None:
        self.fault = " ".join(str(error).split())
        log.warning("no videos any more, the play goes on: %s", self.fault)
        self.drop()
