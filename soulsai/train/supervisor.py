"""A whole training system on this machine: a private server, both nodes, and clients that play.

Everything runs in child processes. What dies is started again; what cannot work stops the whole,
with the reason; and nothing outlives the supervisor, however it ends.
"""

import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from soulsai import runs
from soulsai.config.schema import Config
from soulsai.errors import ConfigError, WireError
from soulsai.process import StopSignal, unique_name
from soulsai.train.child_process import Child, Verdict, judge, with_crash
from soulsai.train.children import STARTING, Crew
from soulsai.train.terminal import RunView, Scene
from soulsai.types import Status
from soulsai.wire.protocols import OperatorWire

TICK = 0.1  # seconds between two looks at the processes
LOOK = 1.0  # seconds between two looks at the training node, which reports as often
SAVING_SECONDS = 20.0  # that a training node has for its last checkpoint
LEAVING_SECONDS = 5.0  # that clients have to send what they hold
DRAINING_SECONDS = 15.0  # that the telemetry node has to write down what is left
TRIAL_BYTES = 2**16  # that must fit onto the disk
SAID = "soulsai: "  # what an error in a log begins with


class RunResult(Struct, frozen=True):
    """How it ended: the exit code, and the reason and the log's last lines if it went wrong."""

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``resume`` is the id of a run in ``config.run.saves``, or empty for a new one."""
        self._config = config
        self._stop = stop
        self._view = view
        self._clock = clock
        self._start = clock()
        self._run = resume
        self._resumed = bool(resume)
        self._status: Status | None = None
        self._doing = "starting"
        self._notices: list[str] = []
        self._restarting: tuple[str, ...] = ()
        self._adopted = 0  # the life of the training node whose run we know

    def __repr__(self) -> str:
        return f"Supervisor(run={self._run!r}, {self._doing})"

    def run(self) -> RunResult:
        """Run until the training node has ended, someone stops us, or something cannot work."""
        with self._view, ExitStack() as stack:
            self._show()
            server = _RunServer(self._config, stack)
            config = _seeded(server.config)
            private = stack.enter_context(_private_folder())
            crew = Crew(
                config, private, stack.enter_context(self._logs()),
                names=server.client_names, start=secrets.randbits(31) if self._resumed else 0,
                resume=self._resumable,
            )  # fmt: skip
            stack.callback(crew.kill)
            stack.callback(self._withdraw)
            outcome = self._watch(crew, server)
            self._close(crew, server, told=outcome.code == 0)
        return msgspec.structs.replace(
            outcome,
            folder=self._folder,
            status=self._last(),
            wall_seconds=self._clock() - self._start,
        )

    def _watch(self, crew: Crew, server: "_RunServer") -> RunResult:
        """Keep everything going until there is a reason not to."""
        look = 0.0
        for child in crew:
            child.start()
        while True:
            now = self._clock()
            if self._stop.signal is not None:
                return RunResult(128 + self._stop.signal)
            for child in crew:
                verdict = child.poll(now)
                if verdict is not None and verdict.then == "done" and child is crew.training:
                    return RunResult(0)
                if verdict is not None and verdict.then == "give up":
                    return _failure(child, verdict)
                if verdict is not None and verdict.then == "restart":
                    self._note(child.name, verdict)
                if child.state == "restarting" and now >= child.due:
                    child.start()
            fallen = server.tend(now)
            if fallen is not None and fallen.then == "give up":
                return RunResult(1, f"the private server {fallen.reason}", server.tail())
            if fallen is not None:
                self._note("the private server", fallen)
            if now >= look:
                look = now + LOOK
                self._look(crew, server)
            time.sleep(TICK)

    def _look(self, crew: Crew, server: "_RunServer") -> None:
        """Ask the training node how it is; learn from it which run's folder is ours."""
        try:
            status = server.wire.status()
        except WireError as error:
            self._doing = f"no answer from the server: {error}"
            status = None
        if status is not None and status.generation > server.older:
            if self._adopted < crew.training.lives:
                self._adopt(status.run, crew, server)
            if status.run == self._run:  # and not that of a node elsewhere that has taken over
                self._status = status
            here = {client.client for client in status.clients if client.state != "lost"}
            for child in crew:
                child.worked |= child.name in here or child not in crew.clients
        self._restarting = tuple(child.name for child in crew if child.state == "restarting")
        self._show()

    def _adopt(self, run: str, crew: Crew, server: "_RunServer") -> None:
        """Take a run for ours, once in each life of our training node, if its folder is here."""
        folder = Path(self._config.run.saves) / run
        if not folder.is_dir():
            return
        self._adopted = crew.training.lives
        self._withdraw()
        self._run = run
        crew.move_logs(folder)
        if server.private is not None:
            runs.announce(folder, server.private)

    def _close(self, crew: Crew, server: "_RunServer", *, told: bool) -> None:
        """Let everybody finish what he has begun: learner and clients, then the record.

        ``told`` says that the training node has ended by itself, and has told the clients so.
        """
        self._doing = "stopping"
        if told:
            self._await(crew.clients, LEAVING_SECONDS, crew, server)
        first = [crew.training, *crew.clients]
        for child in first:
            child.send(signal.SIGTERM)
        self._await(first, SAVING_SECONDS, crew, server)
        crew.telemetry.send(signal.SIGTERM)
        self._await([crew.telemetry], DRAINING_SECONDS, crew, server)

    def _await(
        self, children: Sequence[Child], seconds: float, crew: Crew, server: "_RunServer"
    ) -> None:
        deadline = self._clock() + seconds
        look = 0.0
        waiting = list(children)
        while waiting and self._clock() < deadline:
            if self._clock() >= look:
                look = self._clock() + LOOK
                self._look(crew, server)
            waiting = [child for child in waiting if not child.wait(TICK / len(waiting))]

    @contextmanager
    def _logs(self) -> Iterator[Path]:
        """Give a folder for logs: beside the runs, until it is known which of them is ours."""
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
        """Return the run to go on with, if there is anything of it to go on from."""
        folder = self._folder
        saved = folder is not None and any(folder.glob("checkpoints/[0-9]*"))
        return self._run if saved or (self._resumed and self._status is None) else ""

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

    def _note(self, name: str, verdict: Verdict) -> None:
        self._notices.append(f"{name} {verdict.reason}, restarts in {verdict.delay:.1f} s")
        self._show()

    def _show(self) -> None:
        config = self._config
        self._view.show(
            Scene(
                elapsed=self._clock() - self._start,
                headline=f"{config.environment.id} · {config.algorithm.name}",
                status=self._status,
                doing=self._doing,
                restarting=self._restarting,
                notices=tuple(self._notices),
            )
        )


class _RunServer:
    """The server in between: a private one that we start and tend, or one that runs elsewhere."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        # Imported only now, so that there is something to see before.
        from soulsai.wire.redis.embedded_server import EmbeddedServer
        from soulsai.wire.redis.roles import connect_operator
        from soulsai.wire.secrets import server_for

        self._ends: list[float] = []
        self._embedded: EmbeddedServer | None = None
        self.config = config
        self.private: runs.PrivateServer | None = None
        self.client_names = config.client.name
        if not config.redis.url:
            self._embedded = stack.enter_context(EmbeddedServer())
            self.private = runs.PrivateServer(self._embedded.url, str(self._embedded.secrets))
            redis = msgspec.structs.replace(
                config.redis, url=self.private.url, secrets=self.private.secrets
            )
            # What its clients cannot send is of no use when it has gone.
            client = msgspec.structs.replace(config.client, spool_mb=0.0)
            self.config = msgspec.structs.replace(config, redis=redis, client=client)
        if not self.client_names:
            self.client_names = "client" if self.private is not None else unique_name()
        redis = self.config.redis
        self.wire: OperatorWire = connect_operator(server_for("operator", redis), config.run.name)
        stack.callback(self.wire.close)
        before = self.wire.status()  # fails at once if there is no server, or not for us
        self.older = before.generation if before is not None else 0

    def tend(self, now: float) -> Verdict | None:
        """Start a private server again that has died, and return what happened to it."""
        if self._embedded is None or self._embedded.alive:
            return None
        self._ends = with_crash(self._ends, now)
        verdict = judge(-signal.SIGKILL, self._ends, worked=True)
        if verdict.then == "restart":
            self._embedded.restart()
        return msgspec.structs.replace(verdict, reason="died", delay=0.0)

    def tail(self) -> list[str]:
        """Return the last lines of a private server's log."""
        return self._embedded.log_tail().splitlines()[-12:] if self._embedded is not None else []


def _seeded(config: Config) -> Config:
    if config.run.seed is not None:
        return config
    run = msgspec.structs.replace(config.run, seed=secrets.randbits(31))
    return msgspec.structs.replace(config, run=run)


def _failure(child: Child, verdict: Verdict) -> RunResult:
    tail = child.tail()
    last = tail[-1] if tail else "without a word in its log"
    if last.startswith(SAID) and not child.worked:
        return RunResult(verdict.code, last.removeprefix(SAID))
    reason = f"{child.name} {verdict.reason}: {last.removeprefix(SAID)}"
    return RunResult(verdict.code if verdict.code > 0 else 1, reason, tail)


def _try_disk(folder: Path) -> None:
    """Raise ``OSError`` if nothing can be written: the logs could not even say so."""
    trial = folder / "trial"
    try:
        trial.write_bytes(bytes(TRIAL_BYTES))
    finally:
        trial.unlink(missing_ok=True)


def _private_folder() -> AbstractContextManager[Path]:
    from soulsai.wire.redis.embedded_server import PrivateFolder  # not on Windows

    return PrivateFolder()
