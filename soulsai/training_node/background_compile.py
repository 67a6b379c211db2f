"""The compilation of the updates, in a process beside the learning; the log has its reasons.

What one run has compiled, the next one takes from the user's cache, before its first update.
"""

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
import torch

from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.compile.cache import BuildCache, key
from soulsai.algorithms.compile.form import Compilable, NotCompilable
from soulsai.algorithms.compile.job import JOB, LOG, Job, made_in
from soulsai.config.cache_folder import cache_folder
from soulsai.config.schema import Config
from soulsai.errors import ConfigError, SoulsAIError
from soulsai.process import PARENT
from soulsai.training_node import start
from soulsai.training_node.status import TrainingStatistics
from soulsai.types import Spec

FIRST_UPDATES = 500  # after which the cost of an update is known well enough
LEAST_SECONDS = 120.0  # of learning ahead: compilation takes about 30 s and saves about half
LEAST_SHARE = 0.25  # of the time; a learner that mostly waits for experience gains nothing

COMMAND = (sys.executable, "-P", "-m", "soulsai.algorithms.compile.job")

log = logging.getLogger(__name__)


class LearningCost(NamedTuple):
    """The cost of the updates so far, and the number of those ahead."""

    updates: int
    seconds: float  # spent on these updates
    elapsed: float  # seconds since the first of them
    left: float | None  # updates ahead; ``None``: no end is planned


def reason(cost: LearningCost) -> str:
    """Return the reason not to compile, or an empty text if it pays."""
    if cost.updates < FIRST_UPDATES:
        return f"fewer than {FIRST_UPDATES} updates are done"
    share = cost.seconds / max(cost.elapsed, 1e-9)
    if share < LEAST_SHARE:
        return f"learning takes {share:.0%} of the time only"
    if cost.left is None:
        return ""
    seconds = cost.left * cost.seconds / cost.updates
    if seconds < LEAST_SECONDS:
        return f"{seconds:.0f} s of learning are left, which would not repay it"
    return ""


def obstacle(config: Config, algorithm: Algorithm) -> str:
    """Return the reason why compilation is impossible or unwanted, or an empty text."""
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


class BackgroundCompile:
    """Compiles the updates in another process, or finds them; the algorithm adopts the result.

    A failure is logged, and learning continues with eager updates.
    """

    def __init__(
        self,
        config: Config,
        spec: Spec,
        algorithm: Algorithm,
        statistics: TrainingStatistics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the compilation.

        Args:
            config: All settings.
            spec: Observations and actions of the environment.
            algorithm: The algorithm of these updates.
            statistics: The number and the time of the updates.
            clock: Seconds of a monotonic clock.

        Raises:
            ConfigError: ``training.compile`` is ``always``, and compilation is impossible.
        """
        self._config = config
        self._algorithm = algorithm
        self._statistics = statistics
        self._clock = clock
        self._logged = ""
        self._first: LearningCost | None = None  # when learning began
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._began = 0.0
        self._over = False
        training = config.training
        self._job = Job(
            config.algorithm.name,
            msgspec.to_builtins(config.learner),
            spec,
            training.device,
            torch.get_num_threads(),
            training.matmul,
            config.demonstrations.used,
        )
        self._cache = BuildCache(cache_folder() / "compiled") if start.may_keep(config) else None
        reason_against = obstacle(config, algorithm)
        if reason_against and config.training.compile == "always":
            raise ConfigError(f"training.compile: always, but {reason_against}; choose auto")
        if reason_against:
            self._give_up(reason_against)
        elif self._cache is not None and (found := self._cache.find(key(self._job))):
            self._adopt_found(found)

    @property
    def done(self) -> bool:
        """Whether it has succeeded or failed."""
        return self._over

    def close(self) -> None:
        """End the other process."""
        self._over = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with the compilers it has started
            self._process.wait()
        self._tidy()

    def look(self) -> None:
        """Take the next step, if there is one; call it only between two updates."""
        if self._over:
            return
        if self._process is not None:
            if (code := self._process.poll()) is not None:
                self._finish(code)
            return
        cost = self._cost()
        if cost.updates and (self._config.training.compile == "always" or not reason(cost)):
            self._begin()
        elif cost.updates >= FIRST_UPDATES:
            self._log(reason(cost))

    def _cost(self) -> LearningCost:
        progress, most = self._statistics.progress, self._config.run.max_env_steps
        now = LearningCost(progress.updates, self._statistics.update_seconds, self._clock(), None)
        if self._first is None:
            if self._statistics.update_seconds == 0.0:
                return LearningCost(0, 0.0, 0.0, None)
            self._first = now
        left: float | None = None
        if most:
            learnt_from = max(1, progress.env_steps - self._algorithm.policy.warmup)
            left = progress.updates / learnt_from * max(0, most - progress.env_steps)
        first = self._first
        return LearningCost(
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
            (folder / JOB).write_bytes(msgspec.json.encode(self._job))
            with (folder / LOG).open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    [*COMMAND, str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={
                        **os.environ,
                        PARENT: str(os.getpid()),
                        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
                        "TMPDIR": str(folder),  # its other files are removed with the folder
                    },
                    start_new_session=True,
                )
        except OSError as error:
            self._give_up(str(error))
            return
        log.info("learning=eager: the updates are being compiled")

    def _finish(self, code: int) -> None:
        if self._folder is None:
            return
        folder = Path(self._folder.name)
        if code:
            lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
            last = lines[-1].removeprefix("soulsai: ") if lines else f"ended with {code}"
            self._give_up(f"compiling failed: {last}")
            return
        if not self._adopt(folder):
            return
        if self._cache is not None:
            try:
                self._cache.keep(key(self._job), folder)
            except OSError as error:
                log.info("the compiled updates are not kept for the next run: %s", error)
        self._tidy()

    def _adopt_found(self, folder: Path) -> None:
        """Adopt packages of the cache; delete them, and compile anew, if they do not fit."""
        if not self._adopt(folder, found=True) and self._cache is not None:
            self._cache.forget(key(self._job))
            self._over = False

    def _adopt(self, folder: Path, *, found: bool = False) -> bool:
        """Let the algorithm run the packages in a folder; return whether it does."""
        if not isinstance(self._algorithm, Compilable):
            return False
        try:
            packages, made = made_in(folder, self._algorithm)
            self._algorithm.adopt(packages)
        except (
            SoulsAIError, RuntimeError, TypeError, ValueError, AttributeError, KeyError, OSError,
        ) as error:  # fmt: skip
            # Other versions of torch may raise other errors here.
            self._give_up(f"the compiled updates cannot be used: {error}")
            return False
        self._over = True
        self._log("")
        source = "found" if found else f"after={self._clock() - self._began:.0f}s"
        log.info("learning=compiled %s matmul=%s", source, made.matmul)
        return True

    def _give_up(self, reason: str) -> None:
        self._over = True
        self._tidy()
        self._log(reason)

    def _log(self, reason: str) -> None:
        """Log a reason once; a reason that differs only in its digits is the same."""
        kind = "".join(letter for letter in reason if not letter.isdigit())
        if kind and kind != self._logged:
            log.info("learning=eager: %s", reason)
        self._logged = kind

    def _tidy(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
