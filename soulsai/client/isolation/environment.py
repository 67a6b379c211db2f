"""An environment in a process of its own: it may hang, crash, leak or lag, and is started again."""

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
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import msgspec

from soulsai.client.environment import Rows, StepResult
from soulsai.client.environment_offer import difference
from soulsai.client.isolation import process_tree
from soulsai.client.isolation.shared_memory import (
    ANSWER,
    ASK,
    FAULT,
    READY,
    RESET,
    STEP,
    TOKEN_BYTES,
    Plan,
    Sheet,
    action_bytes,
)
from soulsai.client.isolation.watchdog import EnvironmentBroken, Fault, Watchdog
from soulsai.config import schema
from soulsai.errors import EnvironmentFault
from soulsai.process import PARENT
from soulsai.types import MASK, EnvironmentOffer, Spec

SLICE = 0.25  # seconds between two looks at ``stopped``
WEIGH_SECONDS = 10.0  # between two looks at the memory
GRACE_SECONDS = 2.0  # for an environment in order to close
SELF_SECONDS = 30.0  # later than us a process that hangs ends itself

log = logging.getLogger(__name__)

State = Literal["off", "called", "making", "ready"]


class IsolatedEnvironment:
    """Plays like an ``Environment``; what goes wrong comes out as ``EnvironmentBroken``.

    After that, ``ready`` mends it: it waits, kills, starts again, one short piece at a time.
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
        self.name = id
        self.info: dict[str, Any] = {}
        self.spec = spec
        self._limits = limits
        self._stopped = stopped
        self._clock = clock
        self._sleep = sleep
        self._watchdog = Watchdog(limits, rng=rng, clock=clock)
        self._plan = Plan(
            port=0,
            token="",
            id=id,
            kwargs=offer.kwargs,
            max_episode_steps=offer.max_episode_steps,
            mask_key=offer.mask_key,
            masked=MASK in spec.obs,
            info_keys=offer.info_keys,
            patience=SELF_SECONDS
            + max(limits.step_seconds, limits.reset_seconds, limits.start_seconds),
            paths=tuple(sys.path),
        )
        self._sheet = Sheet(spec)
        self._idle = bytes(len(action_bytes(_still(spec), spec.action)))
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: socket.socket | None = None
        self._line: socket.socket | None = None
        self._token = ""
        self._state: State = "off"
        self._not_before = 0.0
        self._until = 0.0  # it must be ready
        self._weigh_at = 0.0

    def __repr__(self) -> str:
        return f"Isolated({self.name}, {self._state}, pid={self.pid})"

    @property
    def pid(self) -> int | None:
        """The id of its process, while there is one."""
        return self._process.pid if self._process is not None else None

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after waiting and working for that up to ``timeout``.

        Raises ``EnvironmentBroken`` when an attempt to start it has failed.
        """
        until = self._clock() + timeout
        while True:
            left = max(0.0, until - self._clock())
            if self._clock() < self._not_before:
                self._sleep(min(left, self._not_before - self._clock()))
            elif self._state == "off":
                self._launch()
            elif self._state == "called":
                self._accept(left)
            elif self._state == "making":
                self._greet(left)
            if self._state == "ready" and self._clock() >= self._not_before:
                return True
            if self._clock() >= until:
                return False

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode and copy its first observation into ``rows``."""
        if fault := self._watchdog.due(between=True):
            self._break(fault)
        self._ask(RESET, -1 if seed is None else seed, self._idle)
        kind, *_ = self._answer("reset", self._limits.reset_seconds)
        if kind == FAULT:
            self._break(self._watchdog.reset_failed(self._more.decode(errors="replace")))
        self._watchdog.began()
        self._sheet.copy_into(rows)

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take an action that counts from zero, and copy what is seen into ``rows``."""
        self._weigh()
        if fault := self._watchdog.due(between=False):
            self._break(fault)
        self._ask(STEP, 0, action_bytes(action, self.spec.action))
        kind, terminated, truncated, size, reward, seconds = self._answer(
            "step", self._limits.step_seconds
        )
        if kind == FAULT:
            self._break(Fault("crash", self._more.decode(errors="replace")))
        self._watchdog.stepped(seconds)
        self._sheet.copy_into(rows)
        if size:
            self.info = msgspec.msgpack.decode(self._more)
        return StepResult(reward, bool(terminated), bool(truncated))

    def check_bounds(self, rows: Rows) -> None:
        """Do nothing: its own process does that."""

    def close(self, grace: float = GRACE_SECONDS) -> None:
        """End it with all that it started; it has so many seconds to do that itself."""
        for end in (self._line, self._listener):
            if end is not None:
                end.close()
        self._line = self._listener = None
        if self._process is not None:
            process_tree.end(self._process, self._limits.programs, grace)
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process, self._state = None, "off"

    def _break(self, fault: Fault) -> NoReturn:
        """Let go of what is broken, and say so."""
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
        plan = msgspec.structs.replace(self._plan, port=port, token=self._token)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "soulsai.client.isolation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != PARENT},
            start_new_session=True,
            creationflags=process_tree.APART,
        )
        self._watchdog.launched()
        self._weigh_at = self._clock() + WEIGH_SECONDS
        self._until = self._clock() + self._limits.start_seconds
        self._state = "called"
        self._tell(msgspec.json.encode(plan) + b"\n")

    def _tell(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:
            self._crash("start")

    def _accept(self, timeout: float) -> None:
        """Wait for our process to call; anybody else is turned away."""
        if self._listener is None or not self._readable(self._listener, timeout):
            return
        line, _ = self._listener.accept()
        line.settimeout(SLICE)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        token = bytearray(TOKEN_BYTES)
        try:
            known = line.recv_into(token) == TOKEN_BYTES
        except OSError:
            known = False
        if not known or not hmac.compare_digest(bytes(token), self._token.encode()):
            line.close()
            return
        self._listener.close()
        self._listener, self._line, self._state = None, line, "making"

    def _greet(self, timeout: float) -> None:
        """Wait until it has made the environment, and compare that with what we are to play."""
        if self._line is None or not self._readable(self._line, timeout):
            return
        head = bytearray(ANSWER.size)
        self._fill(memoryview(head), self._until, "start")
        kind, _, _, size, *_ = ANSWER.unpack(head)
        said = bytearray(size)
        self._fill(memoryview(said), self._until, "start")
        if kind != READY:
            self._break(Fault("crash", said.decode(errors="replace")))
        if different := difference(msgspec.msgpack.decode(said, type=Spec), self.spec):
            self._break(
                Fault("crash", f"{self.name}: is not the environment of the run: {different}")
            )
        self._state = "ready"

    def _readable(self, end: socket.socket, timeout: float) -> bool:
        """Wait for something to read while it starts; break if it has ended or takes too long."""
        if select.select([end], [], [], timeout)[0]:
            return True
        if self._process is None or self._process.poll() is not None:
            self._crash("start")
        if self._clock() >= self._until:
            self._hang("start", self._limits.start_seconds)
        return False

    def _ask(self, kind: int, seed: int, action: bytes) -> None:
        try:
            if self._line is not None:
                self._line.sendall(ASK.pack(kind, seed) + action)
        except OSError:
            self._crash("idle")

    def _answer(self, what: str, seconds: float) -> tuple[int, int, int, int, float, float]:
        """Return the head of the next answer; its observation is in the sheet."""
        until = self._clock() + seconds
        self._fill(memoryview(self._sheet.data), until, what, seconds)
        head = ANSWER.unpack_from(self._sheet.data)
        self._more = bytearray(head[3])
        self._fill(memoryview(self._more), until, what, seconds)
        return head

    def _fill(self, view: memoryview, until: float, what: str, seconds: float = 0.0) -> None:
        """Read as many bytes as there is room for."""
        at = 0
        while at < len(view):
            try:
                read = self._line.recv_into(view[at:]) if self._line is not None else 0
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

    def _weigh(self) -> None:
        if self._limits.memory_mb and self._process and self._clock() >= self._weigh_at:
            self._weigh_at = self._clock() + WEIGH_SECONDS
            self._watchdog.weighed(process_tree.resident(self._process.pid))


def start(environment: IsolatedEnvironment, stopped: Callable[[], bool]) -> None:
    """Start it for the first time; raise ``EnvironmentFault`` if that does not work."""
    try:
        while not environment.ready(SLICE) and not stopped():
            pass
    except EnvironmentBroken as broken:
        environment.close()
        raise EnvironmentFault(str(broken)) from None


def _still(spec: Spec) -> Any:
    return [0] * (len(spec.action.low) or len(spec.action.sizes))
