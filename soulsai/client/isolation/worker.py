"""The process of an isolated environment: ``python -m soulsai.client.isolation.worker``.

It exchanges frames of fixed size with its client over a loopback connection: numbers, no pickle.
"""

import faulthandler
import logging
import os
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment, StepResult, numbers
from soulsai.client.isolation.process_tree import bind_children
from soulsai.client.probe import with_pictures
from soulsai.client.spaces import Rows
from soulsai.errors import EnvironmentFault
from soulsai.process import INTERRUPTS, die_with_parent
from soulsai.types import ActionSpec, Array, Kwargs, Leaf, Spec, Wrappers

# kind, terminated, truncated, bytes that follow the observation, reward, seconds in the environment
REPLY = struct.Struct("<BBBxIdd")
REQUEST = struct.Struct("<B7xq")  # kind, seed (or -1); the action follows
READY, OBSERVATION, FAULT = 1, 2, 3  # kinds of replies
RESET, STEP, RECORD = 1, 2, 3  # kinds of requests; the last one gets no reply
VERSION_BITS = 32  # of a request to record, below those of the generation
TOKEN_BYTES = 32
MOST_BYTES = 2**20  # that may follow an observation
ARM_SECONDS = 5.0  # between two renewals of the timer that ends a process that hangs
BOUNDS_EVERY = 64  # steps between two checks of the bounds


class WorkerSetup(Struct, frozen=True):
    """The settings of a worker, which reads them from its standard input as one line of JSON."""

    port: int
    token: str
    id: str
    kwargs: Kwargs
    max_episode_steps: int
    wrappers: Wrappers
    mask_key: str
    masked: bool
    largest_reward: float
    info_keys: tuple[str, ...]
    patience: float  # seconds after which a process that hangs ends itself
    paths: tuple[str, ...]  # of modules
    video: str = ""  # folder of videos; empty: none
    videos: int = 1  # that are kept


class ReplyBuffer:
    """One reply as bytes, and the leaves of its observation as views into them."""

    def __init__(self, spec: Spec) -> None:
        self.rows: Rows = {}
        size = REPLY.size
        offsets: list[tuple[str, Leaf, int, int]] = []
        for name, leaf in spec.obs.items():
            count = int(np.prod(leaf.shape, dtype=int))
            offsets.append((name, leaf, count, size))
            size += -(-count * np.dtype(leaf.dtype).itemsize // 8) * 8
        self.data = bytearray(size)
        for name, leaf, count, at in offsets:
            self.rows[name] = np.frombuffer(self.data, leaf.dtype, count, at).reshape(leaf.shape)
        self._pairs = list(self.rows.items())

    def copy_into(self, rows: Rows) -> None:
        """Copy the observation."""
        for name, view in self._pairs:
            rows[name][...] = view


def action_bytes(action: Any, spec: ActionSpec) -> bytes:
    """Encode an action as integers, or as floats if it has numbers."""
    return np.asarray(action, np.float64 if spec.low else np.int64).tobytes()


def _action_from(data: bytes, spec: ActionSpec) -> Array:
    return np.frombuffer(data, np.float64 if spec.low else np.int64).reshape(spec.shape)


def main() -> None:
    """Serve one environment until the client closes the connection."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)  # the client decides when to stop
    die_with_parent(at_once=True)
    with suppress(OSError):
        os.dup2(2, 1)  # the output of games goes to the standard error
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerSetup)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    faulthandler.enable()
    sys.path += [path for path in setup.paths if path not in sys.path]
    bind_children()
    try:
        connection = socket.create_connection(("127.0.0.1", setup.port))
    except OSError:  # the client has left meanwhile
        return
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(setup.token.encode())
        with suppress(ConnectionError):
            _Worker(setup, connection).serve()
    # The interpreter's own end would wait for the threads of a game.
    sys.stderr.flush()
    os._exit(0)


class _Worker:
    """One environment and the connection to its client."""

    def __init__(self, setup: WorkerSetup, connection: socket.socket) -> None:
        self._setup = setup
        self._connection = connection
        self._connection.settimeout(ARM_SECONDS)
        self._armed = -ARM_SECONDS
        self._steps = 0

    def serve(self) -> None:
        """Make the environment, send its spec, and answer requests."""
        self._arm()
        setup = self._setup
        try:
            self._environment = with_pictures(self._made, setup.kwargs, setup.video, setup.videos)
        except EnvironmentFault as fault:
            self._send(FAULT, str(fault).encode(errors="replace"))
            return
        spec = self._environment.spec
        self._buffer = ReplyBuffer(spec)
        numbers_sent = max(1, len(spec.action.low) + len(spec.action.sizes))
        self._request = bytearray(REQUEST.size + 8 * numbers_sent)
        self._send(READY, msgspec.msgpack.encode(spec))
        while self._receive():
            self._answer()
        with suppress(EnvironmentFault):
            self._environment.close()

    def _made(self, kwargs: Kwargs) -> AdaptedEnvironment:
        setup = self._setup
        env = make(setup.id, kwargs, setup.max_episode_steps, setup.wrappers)
        return AdaptedEnvironment(
            env,
            setup.id,
            mask_key=setup.mask_key,
            masked=setup.masked,
            largest_reward=setup.largest_reward,
        )

    def _answer(self) -> None:
        kind, seed = REQUEST.unpack_from(self._request)
        if kind == RECORD:
            self._environment.record((seed >> VERSION_BITS, seed & (2**VERSION_BITS - 1)))
            return
        self._arm()
        began = time.perf_counter()
        result, more = StepResult(0.0, terminated=False, truncated=False), b""
        status = OBSERVATION
        try:
            if kind == RESET:
                self._environment.reset(self._buffer.rows, seed if seed >= 0 else None)
            else:
                result, more = self._step()
        except EnvironmentFault as fault:
            status, more = FAULT, str(fault).encode(errors="replace")[:MOST_BYTES]
        data, seconds = self._buffer.data, time.perf_counter() - began
        reward, terminated, truncated = result[:3]
        REPLY.pack_into(data, 0, status, terminated, truncated, len(more), reward, seconds)
        self._connection.sendall(data + more if more else data)

    def _step(self) -> tuple[StepResult, bytes]:
        environment, rows = self._environment, self._buffer.rows
        action = _action_from(bytes(self._request[REQUEST.size :]), environment.spec.action)
        result = environment.step(action, rows)
        self._steps += 1
        if self._steps % BOUNDS_EVERY == 1:
            environment.check_bounds({name: row[None] for name, row in rows.items()})
        row = None if result.intervention is None else result.intervention.tolist()
        if result.terminated or result.truncated:
            info = numbers(environment.info, self._setup.info_keys)
            return result, msgspec.msgpack.encode((info, row))
        return result, b"" if row is None else msgspec.msgpack.encode((None, row))

    def _receive(self) -> bool:
        """Read the next request, renewing the timer; return whether there is one."""
        at, view = 0, memoryview(self._request)
        while at < len(view):
            try:
                read = self._connection.recv_into(view[at:])
            except TimeoutError:
                self._arm()
                continue
            if not read:
                return False
            at += read
        return True

    def _send(self, kind: int, data: bytes) -> None:
        data = data[:MOST_BYTES]
        self._connection.sendall(REPLY.pack(kind, False, False, len(data), 0.0, 0.0) + data)

    def _arm(self) -> None:
        """Start the timer of a thread that needs no lock of Python's and ends a hanging process."""
        now = time.monotonic()
        if now - self._armed >= ARM_SECONDS:
            self._armed = now
            faulthandler.dump_traceback_later(self._setup.patience, exit=True)


if __name__ == "__main__":
    main()
