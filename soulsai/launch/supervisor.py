"""A whole training system on this machine: a private server, both nodes, and clients.

Everything runs in child processes. A process that dies is restarted; one that cannot work ends the
run with its reason; and no process outlives the supervisor.
"""

import re
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from soulsai import runs
from soulsai.config import Config, load
from soulsai.errors import ConfigError, WireError
from soulsai.evaluations.record import EvaluatorState, write_state
from soulsai.launch.child_process import (
    STARTING,
    Child,
    ExitDecision,
    RunProcesses,
    decide,
    with_crash,
)
from soulsai.launch.scene import Scene
from soulsai.launch.terminal import RunView
from soulsai.process import StopSignal, unique_name
from soulsai.types import Status
from soulsai.wire.protocols import OperatorWire

if TYPE_CHECKING:
    from soulsai.wire.redis.embedded_server import ServerProcess, SharedServer

POLL_SECONDS = 0.1  # between two looks at the processes
STATUS_SECONDS = 1.0  # between two reads of the status, which the training node renews as often
SAVING_SECONDS = 20.0  # for the last checkpoint of the training node
LEAVING_SECONDS = 5.0  # for clients to send their last steps
DRAINING_SECONDS = 15.0  # for the telemetry node to record the last episodes
TRIAL_BYTES = 2**16  # that must fit onto the disk
ERROR_PREFIX = "soulsai: "  # of an error in a log
LOG_BYTES = 2**16  # of the telemetry node's log that are searched for the page's address

_PAGE = re.compile(r"page url=(\S+)|page waits: (.+)")  # in the telemetry node's log


class RunResult(Struct, frozen=True):
    """The end of a run: its exit code, and after a failure the reason and last lines of a log."""

    code: int
    reason: str = ""
    tail: Sequence[str] = ()
    folder: Path | None = None
    status: Status | None = None
    wall_seconds: float = 0.0


class Supervisor:
    """Starts, watches, restarts and ends the processes of one run."""

    def __init__(
        self,
        config: Config,
        stop: StopSignal,
        view: RunView,
        *,
        resume: str = "",
        open_page: Callable[[str], object] | None = None,
        shared: "Callable[[], SharedServer] | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a run without starting anything.

        Args:
            config: All settings.
            stop: Whether to stop early.
            view: Shows the progress.
            resume: The id of a run in ``config.run.saves``; empty: a new run.
            open_page: Is called once with the address of the page.
            shared: Starts a server for clients on other machines, in place of a private one.
            clock: Monotonic seconds.
        """
        self._config = config
        self._stop = stop
        self._view = view
        self._clock = clock
        self._open_page = open_page
        self._shared = shared
        self._start = clock()
        self._run = resume
        self._resumed = bool(resume)
        self._status: Status | None = None
        last = self._last()
        self._ended = last.generation if last is not None else 0  # of an earlier end of the run
        self._others = frozenset(runs.every(Path(config.run.saves)))
        self._seed = config.run.seed
        self._generation = 0  # of the last known start of the training node
        self._adopted = 0  # the start of the training node that ``_run`` belongs to
        self._doing = "starting"
        self._page = ""
        self._notices: list[str] = []
        self._restarting: tuple[str, ...] = ()
        self._server: _RunServer  # both are set by ``run``
        self._processes: RunProcesses

    def __repr__(self) -> str:
        return f"Supervisor(run={self._run!r}, {self._doing})"

    def run(self) -> RunResult:
        """Run until the training node has ended, a signal arrives, or a process cannot work."""
        with closing(self._view), ExitStack() as stack:
            self._show()
            from soulsai.wire.redis.embedded_server import PrivateFolder  # not on Windows

            self._server = _RunServer(self._config, stack, self._shared)
            self._generation = self._server.generation
            self._seed = self._server.config.run.seed
            self._processes = RunProcesses(
                self._server.config,
                stack.enter_context(PrivateFolder()),
                stack.enter_context(self._logs()),
                client_prefix=self._server.client_prefix,
                start=secrets.randbits(31) if self._resumed else 0,
                resume=self._resumable,
            )
            stack.callback(self._processes.kill)
            stack.callback(self._withdraw)
            result = self._watch()
            self._close(ended=result.code == 0)
        return msgspec.structs.replace(
            result,
            folder=self._folder,
            status=self._last(),
            wall_seconds=self._clock() - self._start,
        )

    def _watch(self) -> RunResult:
        """Restart dead processes until there is a reason to end."""
        look = 0.0
        for child in self._processes:
            if child.due < float("inf"):
                child.start()
        while True:
            now = self._clock()
            if self._stop.signal is not None:
                return RunResult(128 + self._stop.signal)
            for child in self._processes:
                result = self._tend(child, now, is_training=child is self._processes.training)
                if result is not None:
                    return result
            fallen = self._server.tend(now)
            if fallen is not None and fallen.then == "give up":
                return RunResult(1, f"the server {fallen.reason}", self._server.tail())
            if fallen is not None:
                self._note("the server", fallen)
            if now >= look:
                look = now + STATUS_SECONDS
                self._look()
            time.sleep(POLL_SECONDS)

    def _tend(self, child: Child, now: float, *, is_training: bool) -> RunResult | None:
        """Restart a child that has died; return the end of the run if there is one."""
        decision = child.poll(now)
        if decision is not None and child is self._processes.evaluator:
            self._evaluator_ended(child, decision)
            decision = None
        if decision is not None and decision.then == "give up":
            return _failure(child, decision)
        if decision is not None and decision.then == "done" and is_training:
            self._run = self._run or self._begun()
            last = self._last()
            if last is not None and last.phase == "ended" and last.generation > self._ended:
                return RunResult(0)
            return RunResult(1, "the training node was stopped from outside before the run's end")
        if decision is not None and decision.then == "restart" and decision.code:
            self._note(child.name, decision)
        # Clients end well at the run's end, a moment before the training node does.
        ending = self._status is not None and self._status.phase in ("stopping", "ended")
        if child.state == "restarting" and now >= child.due and not (child.ended_well and ending):
            if child.ended_well:
                self._notices.append(f"{child.name} ended by itself before the run, and restarts")
            child.start()
        return None

    def _evaluator_ended(self, child: Child, decision: ExitDecision) -> None:
        """Restart the evaluator, or go on without it: the training never depends on it."""
        if decision.then == "restart":
            self._note(child.name, decision)
        elif decision.then == "give up":
            lines = child.tail()
            last = lines[-1].removeprefix(ERROR_PREFIX) if lines else "without a word in its log"
            self._notices.append(
                f"{child.name} {decision.reason} and is left out, the training goes on: {last}"
            )

    def _look(self) -> None:
        """Read the training node's status, and find out the run's folder from it."""
        try:
            status = self._server.wire.status()
        except WireError as error:
            self._doing = f"no answer from the server: {error}"
            status = None
        if status is not None and status.generation > self._server.generation:
            fresh = status.generation > self._generation  # else of a start that has died
            if fresh and self._adopted < self._processes.training.starts:
                self._adopt(status)
            if status.run == self._run:  # and not that of a node elsewhere that has taken over
                self._status = status
            here = {client.client for client in status.clients if client.state != "lost"}
            for child in self._processes:
                child.worked |= child.name in here or child not in self._processes.clients
        self._find_page(self._processes.telemetry.log)
        self._restarting = tuple(
            child.name
            for child in self._processes
            if child.state == "restarting" and not child.ended_well and child.starts
        )
        self._show()

    def _adopt(self, status: Status) -> None:
        """Take over the run of the last start of the training node if its folder is here."""
        folder = Path(self._config.run.saves) / status.run
        if not folder.is_dir():
            return
        self._adopted = self._processes.training.starts
        self._generation = status.generation
        self._withdraw()
        self._run = status.run
        self._processes.move_logs(folder)
        self._let_evaluate(folder)
        if self._server.private is not None:
            runs.announce(folder, self._server.private)

    def _let_evaluate(self, folder: Path) -> None:
        """Let the evaluator start; a run that ends before it has begun must know of it."""
        evaluator = self._processes.evaluator
        if evaluator is None or evaluator.starts:
            return
        evaluator.due = 0.0
        with suppress(OSError):  # the run's end does not wait for it then
            write_state(folder, EvaluatorState(time.time(), doing="starts"))

    def _find_page(self, log: Path) -> None:
        page = page_address(log) if self._config.web.enabled else ""
        if page == self._page:
            return
        self._page = page
        if page.startswith("http") and self._open_page is not None:
            self._open_page(page)
            self._open_page = None
        if self._server.private is not None:
            self._server.private = msgspec.structs.replace(self._server.private, page=page)
            if self._adopted and self._folder is not None:
                runs.announce(self._folder, self._server.private)

    def _close(self, *, ended: bool) -> None:
        """Let learner and clients finish, then the record.

        After an end by the training node itself (``ended``) the clients know of it already.
        """
        self._doing = "stopping"
        if ended:
            self._await(self._processes.clients, LEAVING_SECONDS)
        first = [self._processes.training, *self._processes.clients]
        if self._processes.evaluator is not None:
            first.append(self._processes.evaluator)
        for child in first:
            child.send(signal.SIGTERM)
        self._await(first, SAVING_SECONDS)
        self._processes.telemetry.send(signal.SIGTERM)
        self._await([self._processes.telemetry], DRAINING_SECONDS)

    def _await(
        self,
        children: Sequence[Child],
        seconds: float,
    ) -> None:
        deadline = self._clock() + seconds
        look = 0.0
        waiting = list(children)
        while waiting and self._clock() < deadline:
            if self._clock() >= look:
                look = self._clock() + STATUS_SECONDS
                self._look()
            waiting = [child for child in waiting if not child.wait(POLL_SECONDS / len(waiting))]

    @contextmanager
    def _logs(self) -> Iterator[Path]:
        """Give a folder for logs, beside the runs until the run's own folder is known."""
        saves = Path(self._config.run.saves)
        if self._resumed:
            logs = saves / self._run / "logs"
            logs.mkdir(exist_ok=True)
            yield logs
            return
        fresh = not saves.exists()
        if not fresh and not saves.is_dir():
            raise ConfigError(f"run.saves: {saves} is not a folder")
        saves.mkdir(parents=True, exist_ok=True)
        logs = Path(tempfile.mkdtemp(prefix=STARTING, dir=saves))
        try:
            _try_disk(logs)
            yield logs
        finally:
            shutil.rmtree(logs, ignore_errors=True)  # unless it was moved to the run
            if fresh and not any(saves.iterdir()):
                saves.rmdir()

    def _resumable(self) -> str:
        """Return the run that the next training node resumes; empty before there is one."""
        self._run = self._run or self._begun()
        return self._run

    def _begun(self) -> str:
        """Return the run of a training node that has died before its first status, if any."""
        for folder in runs.every(Path(self._config.run.saves)):
            if folder in self._others:
                continue
            with suppress(ConfigError):
                if load(folder / runs.CONFIG, {}, []).run.seed == self._seed:
                    return folder.name
        return ""

    def _last(self) -> Status | None:
        saved = runs.status(self._folder) if self._folder is not None else None
        known = [status for status in (saved, self._status) if status is not None]
        return max(known, key=lambda status: (status.generation, status.seconds), default=None)

    @property
    def _folder(self) -> Path | None:
        folder = Path(self._config.run.saves) / self._run
        return folder if self._run and folder.is_dir() else None

    def _withdraw(self) -> None:
        if self._folder is not None:
            runs.withdraw(self._folder)

    def _note(self, name: str, decision: ExitDecision) -> None:
        self._notices.append(
            f"{name} {decision.reason}, and starts again in {decision.delay:.1f} s"
        )
        self._show()

    def _show(self) -> None:
        config = self._config
        self._view.show(
            Scene(
                elapsed=self._clock() - self._start,
                headline=f"{config.environment.id} · {config.algorithm.name}",
                status=self._status,
                doing=self._doing,
                page=self._page,
                restarting=self._restarting,
                notices=tuple(self._notices),
                hint="" if self._doing == "stopping" else "Ctrl-C saves and stops.",
            )
        )


class _RunServer:
    """The server of a run: one that is started and restarted here, or one elsewhere."""

    def __init__(
        self, config: Config, stack: ExitStack, shared: "Callable[[], SharedServer] | None"
    ) -> None:
        # Imported only now, so that the first view appears without delay.
        from soulsai.wire.redis.embedded_server import EmbeddedServer
        from soulsai.wire.redis.roles import connect_operator
        from soulsai.wire.secrets import server_for

        self._crashes: list[float] = []
        self._here: EmbeddedServer | ServerProcess | None = None
        if config.run.seed is None:
            run = msgspec.structs.replace(config.run, seed=secrets.randbits(31))
            config = msgspec.structs.replace(config, run=run)
        self.private: runs.PrivateServer | None = None
        self.client_prefix = config.client.name
        if shared is not None:
            started = shared()
            self._here = stack.enter_context(started.process)
            self.private = runs.PrivateServer(started.url, str(started.secrets.resolve()))
        elif not config.redis.url:
            self._here = embedded = stack.enter_context(EmbeddedServer())
            self.private = runs.PrivateServer(embedded.url, str(embedded.secrets))
            # A spool is of no use to clients of a server that ends with them.
            client = msgspec.structs.replace(config.client, spool_mb=0.0)
            config = msgspec.structs.replace(config, client=client)
        if self.private is not None:
            redis = msgspec.structs.replace(
                config.redis, url=self.private.url, secrets=self.private.secrets
            )
            config = msgspec.structs.replace(config, redis=redis)
        self.config = config
        if not self.client_prefix:
            self.client_prefix = "client" if self.private is not None else unique_name()
        redis = self.config.redis
        self.wire: OperatorWire = connect_operator(server_for("operator", redis), config.run.name)
        stack.callback(self.wire.close)
        before = self.wire.status()  # fails at once without a server, or without access to it
        self.generation = before.generation if before is not None else 0

    def tend(self, now: float) -> ExitDecision | None:
        """Restart a server of this run that has died, and return the decision about it."""
        if self._here is None or self._here.alive:
            return None
        self._crashes = with_crash(self._crashes, now)
        decision = decide(-signal.SIGKILL, self._crashes, worked=True)
        if decision.then == "restart":
            self._here.restart()
        return msgspec.structs.replace(decision, reason="died", delay=0.0)

    def tail(self) -> list[str]:
        """Return the last lines of the log of a server of this run."""
        return self._here.log_tail().splitlines()[-12:] if self._here is not None else []


def page_address(log: Path) -> str:
    """Return the page's address in a telemetry node's log, or the reason why there is none yet."""
    try:
        with log.open("rb") as file:
            found = _PAGE.findall(file.read(LOG_BYTES).decode(errors="replace"))
    except OSError:
        return ""
    url, reason = found[-1] if found else ("", "")
    return url or (f"waits: {reason}" if reason else "")


def _failure(child: Child, decision: ExitDecision) -> RunResult:
    tail = child.tail()
    last = tail[-1] if tail else "without a word in its log"
    if last.startswith(ERROR_PREFIX) and not child.worked:
        return RunResult(decision.code, last.removeprefix(ERROR_PREFIX))
    reason = f"{child.name} {decision.reason}: {last.removeprefix(ERROR_PREFIX)}"
    return RunResult(decision.code if decision.code > 0 else 1, reason, tail)


def _try_disk(folder: Path) -> None:
    """Raise ``OSError`` if nothing can be written; the logs could not hold that error."""
    trial = folder / "trial"
    try:
        trial.write_bytes(bytes(TRIAL_BYTES))
    finally:
        trial.unlink(missing_ok=True)
