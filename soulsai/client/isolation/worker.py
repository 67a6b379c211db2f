"""The process of an isolated environment: ``python -m soulsai.client.isolation.worker``."""

import faulthandler
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress

import msgspec

from soulsai.client.environment import AdaptedEnvironment, StepResult, make, numbers
from soulsai.client.isolation.shared_memory import (
    ANSWER,
    ASK,
    FAULT,
    MOST_BYTES,
    READY,
    RESET,
    ROWS,
    Plan,
    Sheet,
    action_from,
)
from soulsai.errors import EnvironmentFault
from soulsai.process import die_with_parent

ARM_SECONDS = 5.0  # between two renewals of the timer that ends us if we hang
BOUNDS_EVERY = 64  # steps between two looks at the bounds


def main() -> None:
    """Serve one environment until the client has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is for the client to judge
    die_with_parent(at_once=True)
    with suppress(OSError):
        os.dup2(2, 1)  # what games print goes where errors go
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    faulthandler.enable()
    sys.path += [path for path in plan.paths if path not in sys.path]
    with socket.create_connection(("127.0.0.1", plan.port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(plan.token.encode())
        _serve(_Host(plan, line))
    # Not by way of the interpreter's end: threads of a game would keep us here.
    sys.stderr.flush()
    os._exit(0)


def _serve(host: "_Host") -> None:
    with suppress(ConnectionError):
        if host.open():
            while host.answer():
                pass
            host.close()


class _Host:
    """One environment, and the line to its client."""

    def __init__(self, plan: Plan, line: socket.socket) -> None:
        self._plan = plan
        self._line = line
        self._line.settimeout(ARM_SECONDS)
        self._armed = -ARM_SECONDS
        self._steps = 0

    def open(self) -> bool:
        """Make the environment and say what it looks like; return whether that worked."""
        self._arm()
        plan = self._plan
        try:
            env = make(plan.id, plan.kwargs, plan.max_episode_steps)
            self._environment = AdaptedEnvironment(
                env, plan.id, mask_key=plan.mask_key, masked=plan.masked
            )
        except EnvironmentFault as fault:
            self._say(FAULT, str(fault).encode())
            return False
        spec = self._environment.spec
        self._sheet = Sheet(spec)
        self._ask = bytearray(ASK.size + 8 * max(1, len(spec.action.low) or len(spec.action.sizes)))
        self._say(READY, msgspec.msgpack.encode(spec))
        return True

    def answer(self) -> bool:
        """Do what is asked, once; return whether there was somebody to ask."""
        if not self._asked():
            return False
        kind, seed = ASK.unpack_from(self._ask)
        self._arm()
        began = time.perf_counter()
        try:
            if kind == RESET:
                self._environment.reset(self._sheet.rows, seed if seed >= 0 else None)
                outcome, more = StepResult(0.0, terminated=False, truncated=False), b""
            else:
                outcome, more = self._step()
        except EnvironmentFault as fault:
            text = str(fault).encode(errors="replace")[:MOST_BYTES]
            self._reply(FAULT, StepResult(0.0, terminated=False, truncated=False), text, 0.0)
            return True
        self._reply(ROWS, outcome, more, time.perf_counter() - began)
        return True

    def _reply(self, kind: int, outcome: StepResult, more: bytes, seconds: float) -> None:
        data = self._sheet.data
        reward, terminated, truncated = outcome
        ANSWER.pack_into(data, 0, kind, terminated, truncated, len(more), reward, seconds)
        self._line.sendall(data + more if more else data)

    def close(self) -> None:
        """Let the environment put away its things."""
        with suppress(EnvironmentFault):
            self._environment.close()

    def _step(self) -> tuple[StepResult, bytes]:
        environment, rows = self._environment, self._sheet.rows
        action = action_from(bytes(self._ask[ASK.size :]), environment.spec.action)
        outcome = environment.step(action, rows)
        self._steps += 1
        if self._steps % BOUNDS_EVERY == 1:
            environment.check_bounds({name: row[None] for name, row in rows.items()})
        if not (outcome.terminated or outcome.truncated):
            return outcome, b""
        return outcome, msgspec.msgpack.encode(numbers(environment.info, self._plan.info_keys))

    def _asked(self) -> bool:
        """Read what is asked next, renewing the timer meanwhile; return whether there is any."""
        at, view = 0, memoryview(self._ask)
        while at < len(view):
            try:
                read = self._line.recv_into(view[at:])
            except TimeoutError:
                self._arm()
                continue
            if not read:
                return False
            at += read
        return True

    def _say(self, kind: int, data: bytes) -> None:
        data = data[:MOST_BYTES]
        self._line.sendall(ANSWER.pack(kind, False, False, len(data), 0.0, 0.0) + data)

    def _arm(self) -> None:
        """Let a thread that needs no lock of Python's end us if we hang and nobody else does."""
        now = time.monotonic()
        if now - self._armed >= ARM_SECONDS:
            self._armed = now
            faulthandler.dump_traceback_later(self._plan.patience, exit=True)


if __name__ == "__main__":
    main()
