"""Whether, when and how learning goes over to compiled updates; the log says which and why."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.compile.form import Compilable, NotCompilable, load
from soulsai.algorithms.compile.job import JOB, SUFFIX, Job
from soulsai.config.schema import Config
from soulsai.errors import ConfigError
from soulsai.process import PARENT
from soulsai.training_node.measures import Measures
from soulsai.types import Spec

FIRST_UPDATES = 500  # before anything is judged: a first impression of what an update costs
LEAST_SECONDS = (
    120.0  # of learning to come; compiling takes half a minute beside it, and saves half
)
LEAST_SHARE = 0.25  # of the time that must go into learning, or it would wait anyway

COMMAND = (sys.executable, "-P", "-m", "soulsai.algorithms.compile.job")

log = logging.getLogger(__name__)


class Work(NamedTuple):
    """What learning has cost, and how much of it is to come."""

    updates: int
    seconds: float  # spent on those
    elapsed: float  # since the first of them
    left: float | None  # updates to come; ``None``: no end is planned


def reason(work: Work) -> str:
    """Return why not to compile; nothing if it pays. What is unknown yet is no reason for it."""
    if work.updates < FIRST_UPDATES:
        return f"fewer than {FIRST_UPDATES} updates are done"
    share = work.seconds / max(work.elapsed, 1e-9)
    if share < LEAST_SHARE:
        return f"learning takes {share:.0%} of the time only"
    if work.left is None:
        return ""
    seconds = work.left * work.seconds / work.updates
    if seconds < LEAST_SECONDS:
        return f"{seconds:.0f} s of learning are left, which would not repay it"
    return ""


def obstacle(config: Config, algorithm: Algorithm) -> str:
    """Return why compiling is impossible or unwanted; nothing if it is neither."""
    if config.training.compile == "never":
        return "training.compile is never"
    if not isinstance(algorithm, Compilable):
        return f"{config.algorithm.name} has no compiled form"
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler ({compiler})"
    try:
        algorithm.forms()
    except NotCompilable as error:
        return str(error)
    return ""


class Compiling:
    """Makes packages in a process of its own, and lets the algorithm adopt them.

    Whatever goes wrong costs the packages only.
    """

    def __init__(
        self,
        config: Config,
        spec: Spec,
        algorithm: Algorithm,
        measures: Measures,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._spec = spec
        self._algorithm = algorithm
        self._measures = measures
        self._clock = clock
        self._said = ""
        self._first: Work | None = None  # the account, and the time, when learning began
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._began = 0.0
        self._over = False
        what = obstacle(config, algorithm)
        if what and config.training.compile == "always":
            raise ConfigError(f"training.compile: always, but {what}; choose auto")
        if what:
            self._give_up(what)

    def __repr__(self) -> str:
        return f"<Compiling [{self._said or 'undecided'}]>"

    @property
    def done(self) -> bool:
        """Whether nothing more will change."""
        return self._over

    def close(self) -> None:
        """End what is being made."""
        self._over = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with the compilers it has started
            self._process.wait()
        self._tidy()

    def look(self) -> None:
        """Begin, or go on, or let the algorithm adopt what is done; only between two updates."""
        if self._over:
            return
        if self._process is not None:
            if (code := self._process.poll()) is not None:
                self._finish(code)
            return
        work = self._work()
        if work.updates and (self._config.training.compile == "always" or not reason(work)):
            self._begin()
        elif work.updates >= FIRST_UPDATES:
            self._say(reason(work))

    def _work(self) -> Work:
        progress, most = self._measures.progress, self._config.run.max_env_steps
        now = Work(progress.updates, self._measures.update_seconds, self._clock(), None)
        if self._first is None:
            if self._measures.update_seconds == 0.0:
                return Work(0, 0.0, 0.0, None)
            self._first = now
        left: float | None = None
        if most:
            learnt_from = max(1, progress.env_steps - self._algorithm.policy.warmup)
            left = progress.updates / learnt_from * max(0, most - progress.env_steps)
        first = self._first
        return Work(
            now.updates - first.updates,
            now.seconds - first.seconds,
            now.elapsed - first.elapsed,
            left,
        )

    def _begin(self) -> None:
        self._began = self._clock()
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="soulsai-compile-")
            folder = Path(self._folder.name)
            training = self._config.training
            job = Job(
                self._config.algorithm.name,
                msgspec.to_builtins(self._config.learner),
                self._spec,
                training.device,
                training.threads,
            )
            (folder / JOB).write_bytes(msgspec.json.encode(job))
            with (folder / "log").open("wb") as said:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    [*COMMAND, str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    env={
                        **os.environ,
                        PARENT: str(os.getpid()),
                        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
                        "TMPDIR": str(folder),  # whatever else it leaves goes with the folder
                    },
                    start_new_session=True,
                )
        except OSError as error:
            self._give_up(str(error))
            return
        log.info("learning=eager: compiled updates are being made")

    def _finish(self, code: int) -> None:
        """Take over the packages, or say why there are none."""
        if self._folder is None or not isinstance(self._algorithm, Compilable):
            return
        folder = Path(self._folder.name)
        if code:
            lines = (folder / "log").read_text(errors="replace").strip().splitlines()
            last = lines[-1].removeprefix("soulsai: ") if lines else f"ended with {code}"
            self._give_up(f"compiling failed: {last}")
            return
        try:
            packages = {path.stem: load(path) for path in folder.glob(f"*{SUFFIX}")}
            self._algorithm.adopt(packages)
        except (RuntimeError, TypeError, AttributeError, KeyError, OSError) as error:
            # another version of torch may load packages in another way
            self._give_up(f"what was compiled cannot be used: {error}")
            return
        self._over = True
        self._tidy()
        self._say("")
        log.info("learning=compiled after=%.0fs", self._clock() - self._began)

    def _give_up(self, why: str) -> None:
        self._over = True
        self._tidy()
        self._say(why)

    def _say(self, why: str) -> None:
        """Log why learning is eager; once, though the numbers in it change."""
        kind = "".join(letter for letter in why if not letter.isdigit())
        if kind and kind != self._said:
            log.info("learning=eager: %s", why)
        self._said = kind

    def _tidy(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
