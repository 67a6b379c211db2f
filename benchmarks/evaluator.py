"""An evaluator beside a run measured: what it costs the learner, and how soon a video is there."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import psutil

from benchmarks.figure import Figure, at_least, at_most
from soulsai import connect
from soulsai.config import load
from soulsai.errors import SoulsAIError
from soulsai.evaluations.record import FOLDER, Evaluations
from soulsai.runs import every
from soulsai.types import Status

SHARE_LIMIT = 0.97  # of the updates per second without an evaluator
VIDEO_LIMIT = 30.0  # seconds from a checkpoint to the video of a new best model
PAIRS, WINDOW = 12, 8.0  # windows with and without it, in turns; their seconds
PATIENCE = 240.0  # seconds for learning to begin, and for a first evaluation
SETTINGS = (
    "evaluate.every=1", "checkpoint.every=2000", "checkpoint.replay=false", "web.enabled=false",
    "run.max_env_steps=0",
)  # fmt: skip


def measure() -> Iterator[Figure]:
    """Yield the learner's rate beside a working evaluator, and the time to a video."""
    with tempfile.TemporaryDirectory() as place:
        saves = Path(place) / "saves"
        words = ["train", "--clients", "2", *(f"--set={one}" for one in SETTINGS)]
        process = psutil.Popen(
            [sys.executable, "-m", "soulsai", *words, "--saves", str(saves)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _until(lambda: (_status(saves) or _nothing).updates > 3000, "learning")
            folder = every(saves)[-1]
            _until(lambda: bool(list((folder / FOLDER).glob("*/*.webm"))), "a video")
            ratios, played = _ratios(process, saves)
            delays = list(_delays(folder))
        finally:
            process.terminate()
            process.wait()
    yield at_least(
        f"evaluator: learner's rate beside it, {PAIRS} pairs of windows, {played} evaluations",
        median(ratios), "of the rate without it", SHARE_LIMIT,
    )  # fmt: skip
    yield at_most("evaluator: checkpoint to the first video", min(delays), "s", VIDEO_LIMIT)


def _ratios(process: psutil.Popen, saves: Path) -> tuple[list[float], int]:
    """Return the rates beside a working evaluator, each divided by that beside a stopped one."""
    evaluations, ratios = Evaluations(every(saves)[-1]), []
    evaluations.refresh()
    for pair in range(PAIRS):
        rates = {}
        for works in (True, False) if pair % 2 else (False, True):
            _let(process, works=works)
            rates[works] = _rate(saves)
        ratios.append(rates[True] / rates[False])
    return ratios, len(evaluations.refresh())


def _let(process: psutil.Popen, *, works: bool) -> None:
    """Let the evaluator and its jobs go on, or stop them."""
    for child in process.children():
        if "evaluator" in child.cmdline():
            for each in (child, *child.children(recursive=True)):
                each.resume() if works else each.suspend()


def _rate(saves: Path) -> float:
    before = _status(saves)
    time.sleep(WINDOW)
    after = _status(saves)
    if before is None or after is None:
        raise SoulsAIError("the run has ended")
    return (after.updates - before.updates) / (after.seconds - before.seconds)


def _delays(folder: Path) -> Iterator[float]:
    """Yield the seconds from a checkpoint to the first video of it, where both are still there."""
    for video in (folder / FOLDER).glob("*/*.webm"):
        checkpoint = folder / "checkpoints" / video.parent.name
        policy = video.parent / "policy.onnx"
        began = checkpoint if checkpoint.is_dir() else policy
        yield video.stat().st_mtime - began.stat().st_mtime


_nothing = Status("none", 0, "starting", "", "")


def _status(saves: Path) -> Status | None:
    try:
        with connect.operator(load(None, {}, [f"run.saves={saves}"])) as wire:
            return wire.status()
    except SoulsAIError:
        return None


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SoulsAIError(f"waited in vain for {what}; run soulsai train by itself")
        time.sleep(0.5)
