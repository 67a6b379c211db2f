"""An environment in a process of its own, which is restarted when it hangs, crashes, leaks or lags.

The process connects to a loopback port with a token that it reads from its standard input.
"""

import hmac
import logging
import os
import random
import secrets
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NoReturn

import msgspec
import numpy as np

from soulsai.client.environment import StepResult
from soulsai.client.environment_offer import difference
from soulsai.client.isolation import process_tree
from soulsai.client.isolation.watchdog import EnvironmentBroken, Fault, Watchdog
from soulsai.client.isolation.worker import (
    FAULT,
    READY,
    RECORD,
    REPLY,
    REQUEST,
    RESET,
    STEP,
    TOKEN_BYTES,
    VERSION_BITS,
    ReplyBuffer,
    WorkerSetup,
    action_bytes,
)
from soulsai.client.spaces import Rows
from soulsai.config import schema
from soulsai.errors import EnvironmentFault
from soulsai.process import PARENT
from soulsai.types import MASK, EnvironmentOffer, Spec

SLICE = 0.25  # seconds between two checks of ``stopped``
MEMORY_SECONDS = 10.0  # between two measurements of the memory
GRACE_SECONDS = 2.0  # for a healthy environment to close
SELF_SECONDS = 30.0  # after the client's limits, until a process that hangs ends itself

log = logging.getLogger(__name__)

State = Literal["off", "started", "connected", "ready"]


class IsolatedEnvironment:
    """Plays like an ``AdaptedEnvironment``; a fault is raised as ``EnvironmentBroken``.

    After that, ``ready`` restarts it in short pieces of work.
    """

    def __init__(
        self,
        id: str,
        offer: EnvironmentOffer,
        spec: Spec,
        limits: schema.WatchdogSettings,
        *,
        stopped: Callable[[], bool],
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare to start; nothing runs yet.

        Args:
            id: The environment's id.
            offer: The run's settings of the environment.
            spec: The run's spec, which the environment must have.
            limits: When to restart it.
            stopped: Whether the user wants the client to stop.
            rng: Of the pauses between restarts.
            clock: Monotonic seconds.
            sleep: How to sleep.
        """
        self.name = id
        self._offer = offer
        self.info: dict[str, Any] = {}
        self.spec = spec
        self._limits = limits
        self._stopped = stopped
        self._clock = clock
        self._sleep = sleep
        self._watchdog = Watchdog(limits, rng=rng, clock=clock)
        self._setup = WorkerSetup(
            port=0,
            token="",
            id=id,
            kwargs=offer.kwargs,
            max_episode_steps=offer.max_episode_steps,
            wrappers=offer.wrappers,
            mask_key=offer.mask_key,
            masked=MASK in spec.obs,
            largest_reward=offer.largest_reward,
            info_keys=offer.info_keys,
            patience=SELF_SECONDS
            + max(limits.step_seconds, limits.reset_seconds, limits.start_seconds),
            paths=tuple(sys.path),
        )
        self._buffer = ReplyBuffer(spec)
        self._no_action = bytes(8 * max(1, len(spec.action.low) + len(spec.action.sizes)))
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._token = ""
        self._state: State = "off"
        self._not_before = 0.0
        self._start_until = 0.0  # the deadline of a start
        self._measure_at = 0.0
        self._until = 0.0  # the deadline of the reply that is awaited
        self._awaited: Literal["", "step", "reset"] = ""

    def __repr__(self) -> str:
        return f"Isolated({self.name}, {self._state}, pid={self.pid})"

    @property
    def pid(self) -> int | None:
        """Return the id of its process, while there is one."""
        return self._process.pid if self._process is not None else None

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after at most ``timeout`` seconds of waiting and work.

        An attempt to start it that fails raises ``EnvironmentBroken``.
        """
        until = self._clock() + timeout
        while True:
            left = max(0.0, until - self._clock())
            if self._clock() < self._not_before:
                self._sleep(min(left, self._not_before - self._clock()))
            elif self._state == "off":
                self._launch()
            elif self._state == "started":
                self._accept(left)
            elif self._state == "connected":
                self._compare(left)
            if self._state == "ready" and self._clock() >= self._not_before:
                return True
            if self._clock() >= until:
                return False

    def begin_stage(self, begun: int) -> None:
        """End its process, so that ``ready`` starts it with the arguments of a stage."""
        kwargs = self._offer.at_stage(begun).kwargs
        self._setup = msgspec.structs.replace(self._setup, kwargs=kwargs)
        self.close()

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode; see ``AdaptedEnvironment.reset``."""
        self.request_reset(seed)
        self.finish_reset(rows)

    def request_reset(self, seed: int | None = None) -> None:
        """Let it begin an episode, without waiting for that."""
        if fault := self._watchdog.due(between=True):
            self._break(fault)
        self._request("reset", REQUEST.pack(RESET, -1 if seed is None else seed) + self._no_action)

    def finish_reset(self, rows: Rows) -> None:
        """Wait until it has begun an episode, and write its first observation into ``rows``."""
        kind, *_ = self._reply()
        if kind == FAULT:
            self._break(self._watchdog.reset_failed(self._more.decode(errors="replace")))
        self._watchdog.began()
        self._buffer.copy_into(rows)

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take a step; see ``AdaptedEnvironment.step``."""
        self.request_step(action)
        return self.finish_step(rows)

    def request_step(self, action: Any) -> None:
        """Let it take a step, without waiting for that."""
        self._measure()
        if fault := self._watchdog.due(between=False):
            self._break(fault)
        self._request("step", REQUEST.pack(STEP, 0) + action_bytes(action, self.spec.action))

    def finish_step(self, rows: Rows) -> StepResult:
        """Wait until it has taken a step, and write the observation into ``rows``."""
        kind, terminated, truncated, size, reward, seconds = self._reply()
        if kind == FAULT:
            self._break(Fault("crash", self._more.decode(errors="replace")))
        self._watchdog.stepped(seconds)
        self._buffer.copy_into(rows)
        row = None
        if size:
            info, row = msgspec.msgpack.decode(self._more)
            self.info = self.info if info is None else info
        result = StepResult(reward, bool(terminated), bool(truncated))
        return result if row is None else result._replace(intervention=np.array(row))

    def record_into(self, folder: str, keep: int) -> None:
        """Let it make videos of the episodes that ``record`` names, from its next start on.

        Args:
            folder: The folder of the videos; empty: none are made.
            keep: Videos that are kept.
        """
        self._setup = msgspec.structs.replace(self._setup, video=folder, videos=keep)

    def record(self, version: tuple[int, int]) -> None:
        """Let it record the episode that has just begun; see ``Recordable``."""
        if self._connection is None or self._awaited:
            return
        generation, number = version
        packed = REQUEST.pack(RECORD, (generation << VERSION_BITS) | number)
        with suppress(OSError):  # the next step finds out that it has died
            self._connection.sendall(packed + self._no_action)

    @property
    def overdue(self) -> bool:
        """Whether the reply that is awaited is late; to finish the request then raises."""
        return self._connection is None or self._clock() >= self._until

    def fileno(self) -> int:
        """Return the descriptor of its connection, which becomes readable with the reply."""
        return -1 if self._connection is None else self._connection.fileno()

    def check_bounds(self, rows: Rows) -> None:
        """Do nothing: its own process checks the bounds."""

    def close(self, grace: float = GRACE_SECONDS) -> None:
        """End its process and all descendants; it has ``grace`` seconds to end by itself."""
        for end in (self._connection, self._listener):
            if end is not None:
                end.close()
        self._connection = self._listener = None
        if self._process is not None:
            process_tree.end(self._process, self._limits.programs, grace)
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process, self._state, self._awaited = None, "off", ""

    def _break(self, fault: Fault) -> NoReturn:
        """Stop the process where the fault requires it, and raise the fault."""
        if fault.restarts:
            self.close(grace=GRACE_SECONDS if fault.sound else 0.0)
        seconds, text = self._watchdog.after(fault)
        self._not_before = self._clock() + seconds
        log.warning("env=%s %s: %s", self.name, fault.kind, fault.text)
        raise EnvironmentBroken(fault.text, msgspec.structs.replace(fault, text=text))

    def _launch(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._token = secrets.token_hex(TOKEN_BYTES // 2)
        port = self._listener.getsockname()[1]
        setup = msgspec.structs.replace(self._setup, port=port, token=self._token)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "soulsai.client.isolation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != PARENT},
            start_new_session=True,
            creationflags=process_tree.APART,
        )
        self._watchdog.launched()
        self._measure_at = self._clock() + MEMORY_SECONDS
        self._start_until = self._clock() + self._limits.start_seconds
        self._state = "started"
        self._write(msgspec.json.encode(setup) + b"\n")

    def _write(self, setup: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(setup)
            self._process.stdin.flush()
        except OSError:
            self._crash("start")

    def _accept(self, timeout: float) -> None:
        """Wait for the process to connect; a connection without the token is closed."""
        if self._listener is None or not self._readable(self._listener, timeout):
            return
        connection, _ = self._listener.accept()
        connection.settimeout(SLICE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        token = bytearray(TOKEN_BYTES)
        try:
            known = connection.recv_into(token) == TOKEN_BYTES
        except OSError:
            known = False
        if not known or not hmac.compare_digest(bytes(token), self._token.encode()):
            connection.close()
            return
        self._listener.close()
        self._listener, self._connection, self._state = None, connection, "connected"

    def _compare(self, timeout: float) -> None:
        """Wait until it has made the environment, and compare its spec with the run's."""
        if self._connection is None or not self._readable(self._connection, timeout):
            return
        header = bytearray(REPLY.size)
        self._fill(memoryview(header), self._start_until, "start")
        kind, _, _, size, *_ = REPLY.unpack(header)
        payload = bytearray(size)
        self._fill(memoryview(payload), self._start_until, "start")
        if kind != READY:
            self._break(Fault("crash", payload.decode(errors="replace")))
        if different := difference(msgspec.msgpack.decode(payload, type=Spec), self.spec):
            self._break(
                Fault("crash", f"{self.name}: is not the environment of the run: {different}")
            )
        self._state = "ready"

    def _readable(self, end: socket.socket, timeout: float) -> bool:
        """Wait for data while it starts; raise if it has ended or its time is over."""
        if select.select([end], [], [], timeout)[0]:
            return True
        if self._process is None or self._process.poll() is not None:
            self._crash("start")
        if self._clock() >= self._start_until:
            self._hang("start", self._limits.start_seconds)
        return False

    def _request(self, awaited: Literal["step", "reset"], data: bytes) -> None:
        if self._awaited:
            self._reply()  # of a request that nobody has finished
        self._awaited, self._until = awaited, self._clock() + self._patience(awaited)
        try:
            if self._connection is not None:
                self._connection.sendall(data)
        except OSError:
            self._crash("idle")

    def _reply(self) -> tuple[int, int, int, int, float, float]:
        """Return the header of the reply; its observation is in the buffer."""
        awaited, self._awaited = self._awaited, ""
        seconds = self._patience(awaited)
        self._fill(memoryview(self._buffer.data), self._until, awaited, seconds)
        header = REPLY.unpack_from(self._buffer.data)
        self._more = bytearray(header[3])
        self._fill(memoryview(self._more), self._until, awaited, seconds)
        return header

    def _patience(self, awaited: str) -> float:
        return self._limits.step_seconds if awaited == "step" else self._limits.reset_seconds

    def _fill(self, view: memoryview, until: float, what: str, seconds: float = 0.0) -> None:
        """Fill ``view`` from the connection by the time ``until``."""
        at = 0
        while at < len(view):
            try:
                read = self._connection.recv_into(view[at:]) if self._connection is not None else 0
            except TimeoutError:
                if self._stopped():
                    self.close(grace=0.0)
                    raise EnvironmentBroken("stopped") from None
                if self._clock() >= until:
                    self._hang(what, seconds or self._limits.start_seconds)
                continue
            except OSError:
                read = 0
            if not read:
                self._crash(what)
            at += read

    def _crash(self, what: str) -> NoReturn:
        code = None
        if self._process is not None:
            try:
                code = self._process.wait(process_tree.WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
        self._break(Fault("crash", f"{what}: its process {process_tree.describe(code)}"))

    def _hang(self, what: str, seconds: float) -> NoReturn:
        self._break(Fault("hang", f"{what}: no answer for {seconds:g} s"))

    def _measure(self) -> None:
        if self._limits.memory_mb and self._process and self._clock() >= self._measure_at:
            self._measure_at = self._clock() + MEMORY_SECONDS
            self._watchdog.measured(process_tree.resident(self._process.pid))


def answered(
    environments: Sequence[IsolatedEnvironment], timeout: float
) -> list[IsolatedEnvironment]:
    """Return the environments whose request can be finished without waiting.

    Args:
        environments: Those with a request that is not finished.
        timeout: Seconds to wait for the first of them.
    """
    connected = [one for one in environments if one.fileno() >= 0]
    # Windows selects from no empty list; those without a connection are overdue.
    readable = set(select.select(connected, [], [], timeout)[0]) if connected else set()
    return [one for one in environments if one in readable or one.overdue]


def start(environment: IsolatedEnvironment, stopped: Callable[[], bool]) -> None:
    """Start it for the first time; raise ``EnvironmentFault`` if this fails."""
    try:
        while not environment.ready(SLICE) and not stopped():
            pass
    except EnvironmentBroken as broken:
        environment.close()
        raise EnvironmentFault(str(broken)) from None
