"""Evaluations and recordings of a run on disk, for the tests of the page and of the report."""

import functools
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from soulsai.client.recording import Trace, write_trace
from soulsai.client.video import VideoLimits, VideoWriter
from soulsai.evaluations.record import FOLDER, NAME, EvaluationLine

BEGAN = 1_795_363_533.0  # Unix seconds
FRAMES, FPS = 60, 20


def write_evaluations(folder: Path, count: int, recorded: int, seeds: int = 2) -> None:
    """Write evaluations of models that get better, and recordings of the newest of them.

    Args:
        folder: The run's folder.
        count: Evaluations.
        recorded: Models with recordings.
        seeds: Recordings of each.
    """
    with (folder / NAME).open("wb") as file:
        for number in range(1, count + 1):
            mean = -180 + 400 * number / count
            line = EvaluationLine(
                number, BEGAN + 60 * number, f"{number:06d}", 1, number, 2400 * number,
                "best" if number > count - recorded else "no better",
                regressed=number == count // 2, seeds=tuple(range(8)),
                returns=tuple(np.linspace(mean - 40, mean + 40, 8).tolist()),
                lengths=(200,) * 8, metrics={"win": float(number == count)},
                mean=mean, low=mean - 20, high=mean + 20, iqm=mean, iqm_low=mean - 25,
                iqm_high=mean + 25, episodes=8, seconds=3.0,
            )  # fmt: skip
            file.write(msgspec.json.encode(line) + b"\n")
    for number in range(count - recorded + 1, count + 1):
        place = folder / FOLDER / f"{number:06d}"
        place.mkdir(parents=True)
        (place / "policy.onnx").write_bytes(b"policy")
        for seed in range(2_000_000, 2_000_000 + seeds):
            (place / f"episode-{seed}.webm").write_bytes(video())
            write_trace(place / f"episode-{seed}.json", trace(number, seed))


@functools.cache
def video() -> bytes:
    """Return a video whose pictures become brighter, with a caption."""
    with tempfile.TemporaryDirectory() as folder:
        writer = VideoWriter(Path(folder) / "a.webm", FPS, VideoLimits())
        for number in range(FRAMES + 1):
            writer.add(np.full((120, 160, 3), 4 * number, np.uint8), f"return {number}")
        writer.close()
        return (Path(folder) / "a.webm").read_bytes()


def trace(version: int, seed: int) -> Trace:
    return Trace(
        1, version, seed, FPS, "q", (3,), FRAMES + 1,
        actions=[[float(step % 3)] for step in range(FRAMES)],
        scores=[[0.5 - step, 1.0 * (step % 3), None] for step in range(FRAMES)],
        values=[float(step % 3) for step in range(FRAMES)],
        rewards=[0.5] * FRAMES, terminated=True,
    )  # fmt: skip
