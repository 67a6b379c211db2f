"""A thousand clients on one training node: its share of a core, and the bytes of its weights.

The clients are played by this process: recorded episodes of LunarLander, sent over a connection of
each client at its own pace, one fragment per entry, with the actions that the published weights
choose, so that every check of the node has its work. The node is the real command.
"""

import heapq
import random
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby

import msgspec
import numpy as np
import psutil
from msgspec import Struct

from benchmarks.figure import Figure, at_least, at_most
from benchmarks.wire import played
from soulsai.client.actor import Actor
from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment
from soulsai.config.schema import RedisSettings
from soulsai.errors import NoRun, SoulsAIError, WireError
from soulsai.heads import best_choices
from soulsai.types import (
    PROTOCOL,
    Episode,
    Fragment,
    Heartbeat,
    Hello,
    Pointer,
    RunSpec,
    Status,
)
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.protocols import ClientWire, OperatorWire, Position
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_client, connect_operator
from soulsai.wire.secrets import Server, server_for

ENVIRONMENT = "LunarLander-v3"
NODE_LIMIT = 25.0  # per cent of a core
GROWTH_LIMIT = 2.0  # points, from the first third of the time to the last
ARRIVED_LIMIT = 99.9  # per cent of the env steps
WEIGHTS_LIMIT = 30.0  # MB/s, of all clients
VERSION_LIMIT = 6.0  # seconds; twelve if each is sent whole
STARTING_SECONDS = 120.0
SETTLING_SECONDS = 15.0  # of play, before the node is watched
LAST_SECONDS = 5.0  # for the last env steps to be admitted
FOLLOW_SECONDS = 0.1  # between two looks for new weights
WINDOW_SECONDS = 5.0  # between two looks at the node
RECORDED_STEPS = 10_000  # of all episodes that the clients repeat
UPDATES_PER_SECOND = 5.0  # few: the price of learning is measured elsewhere

_CLOCK_AT, _EPISODE_AT = 12, 28  # in a message of a fragment
_CLOCK, _EPISODE = struct.Struct("<Q"), struct.Struct("<I")


def measure(clients: int, rate: float, seconds: float) -> Iterator[Figure]:
    """Yield what so many clients cost the node, and what it costs them.

    Args:
        clients: Their number.
        rate: Env steps of each per second.
        seconds: The time over which they are watched.
    """
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        node = stack.enter_context(_node(redis, clients * rate))
        fleet = Fleet(server_for("client", redis), clients, rate, lambda: node.poll() is None)
        stack.callback(fleet.close)
        operator = connect_operator(server_for("operator", redis), "soulsai")
        stack.callback(operator.close)
        fleet.play(SETTLING_SECONDS)
        shares: list[float] = []
        fleet.versions.clear()
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            spent, since = _cpu_seconds(node), time.monotonic()
            fleet.play(WINDOW_SECONDS)
            shares.append(100.0 * (_cpu_seconds(node) - spent) / (time.monotonic() - since))
        after = _settled(operator, fleet.sent)
        if after.rejected or after.notice:
            raise SoulsAIError(f"not all was admitted: {after.rejected} {after.notice}")
    third = max(1, len(shares) // 3)
    first, last = np.mean(shares[:third]), np.mean(shares[-third:])
    title = f"fleet: {clients} clients at {rate:g} Hz"
    arrived = 100.0 * after.env_steps / fleet.sent
    yield at_least(f"{title}, env steps that arrive", arrived, "%", ARRIVED_LIMIT)
    yield at_most(f"{title}, training node, share of a core", float(last), "%", NODE_LIMIT)
    yield at_most(f"{title}, its growth", float(last - first), "points", GROWTH_LIMIT)
    if len(fleet.versions) < 2:
        raise SoulsAIError("no two versions have come; measure for longer")
    times, sizes = zip(*fleet.versions, strict=True)
    taken = times[-1] - times[0]
    each = taken / (len(times) - 1)
    yield at_most(f"{title}, seconds between two versions", each, "s", VERSION_LIMIT)
    megabytes = 1e-6 * clients * sum(sizes[:-1]) / taken  # each until the next one
    yield at_most(f"{title}, weights for all of them", megabytes, "MB/s", WEIGHTS_LIMIT)


class Recorded(Struct, frozen=True):
    """An episode that clients repeat."""

    fragments: tuple[Fragment, ...]
    reward: float
    steps: int


class Client(Struct):
    """One client: its connection, and its place in the recorded episodes."""

    wire: ClientWire
    position: Position
    recorded: int  # index of its episode
    fragment: int = 0  # index of its next fragment
    episode: int = 0  # of this epoch
    clock: int = 0  # env steps of this epoch


class Fleet:
    """Clients that repeat recorded episodes with the actions of the newest weights.

    Args:
        server: The server, with the credentials of clients.
        clients: Their number.
        rate: Env steps of each per second.
        running: Whether there is a training node.
    """

    def __init__(
        self, server: Server, clients: int, rate: float, running: Callable[[], bool]
    ) -> None:
        self.sent = 0  # env steps
        # of the weights: when each version came, and the bytes that one client downloads of it
        self.versions: list[tuple[float, int]] = []
        self._base = 0  # the last version that came whole
        self._rate, self._rng = rate, random.Random(0)
        wires = [connect_client(server, "soulsai", f"fleet-{n}") for n in range(clients)]
        self._first = wires[0]
        self._spec = _spec(self._first, running)
        self._program = self._first.program(self._spec)
        self._recorded = _recorded(self._spec)
        self._version = (0, 0)
        self._messages: list[list[bytes]] = []
        self._clients = [self._begun(wire) for wire in wires]
        self._due: list[tuple[float, int, bool]] = []  # time, client, whether it is a heartbeat
        while not self._follow():
            time.sleep(0.1)
        now = time.monotonic()
        for number in range(clients):
            for beat in (False, True):
                heapq.heappush(self._due, (now + self._rng.random(), number, beat))
        self._follow_at = now

    def play(self, seconds: float) -> None:
        """Send what is due for so many seconds."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            if now >= self._follow_at:
                self._follow_at = now + FOLLOW_SECONDS
                self._follow()
            while self._due[0][0] <= now:
                self._act(*self._due[0])
            time.sleep(max(0.0, min(until, self._due[0][0], self._follow_at) - time.monotonic()))

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.wire.close()

    def _begun(self, wire: ClientWire) -> Client:
        spec = wire.spec()
        hello = Hello(spec.run, PROTOCOL, "fleet", ENVIRONMENT, 1, spec.crc)
        return Client(wire, wire.hello(hello), self._rng.randrange(len(self._recorded)))

    def _follow(self) -> bool:
        """Take the newest weights; return whether there are any."""
        pointer = self._first.pointer()
        if pointer is None:
            return False
        if (pointer.generation, pointer.version) != self._version:
            try:
                weights = self._first.weights(pointer, self._program)
            except WireError:  # there is a newer one
                return bool(self._messages)
            self.versions.append((time.monotonic(), self._size(pointer)))
            self._version = (pointer.generation, pointer.version)
            actor = Actor.load(self._program, weights, self._spec.spec)
            self._messages = [
                [encode_message(self._chosen(f, actor), self._spec) for f in episode.fragments]
                for episode in self._recorded
            ]
        return True

    def _size(self, pointer: Pointer) -> int:
        """Return the bytes that a client downloads of a version that follows the one before."""
        if pointer.delta is None:
            self._base = pointer.version
            return pointer.bytes
        base, self._base = self._base, pointer.delta.base.version
        return pointer.delta.bytes + (pointer.delta.base.bytes if base != self._base else 0)

    def _chosen(self, fragment: Fragment, actor: Actor) -> Fragment:
        """Return a fragment with the actions of a version."""
        obs = {name: rows[: len(fragment)] for name, rows in fragment.obs.items()}
        outputs, _ = actor(obs, {})
        action = self._spec.spec.action
        chosen = best_choices(action.sizes, outputs["q"], None)
        generation, version = self._version
        return msgspec.structs.replace(
            fragment,
            action=chosen.reshape(fragment.action.shape).astype(action.leaf.dtype),
            generation=generation,
            version=version,
        )

    def _act(self, due: float, number: int, beat: bool) -> None:
        """Send what one client has to send, and plan its next message."""
        client, generation = self._clients[number], self._version[0]
        recorded = self._recorded[client.recorded]
        client.position = Position(client.position.epoch, client.position.seq + 1)
        if beat:
            entry = pack([encode_message(self._heartbeat(client), self._spec)])
            heapq.heapreplace(self._due, (due + self._spec.heartbeat_seconds, number, True))
        else:
            data = self._messages[client.recorded][client.fragment]
            steps = len(recorded.fragments[client.fragment])
            messages = [
                data[:_CLOCK_AT]
                + _CLOCK.pack(client.clock)
                + data[_CLOCK_AT + _CLOCK.size : _EPISODE_AT]
                + _EPISODE.pack(client.episode)
                + data[_EPISODE_AT + _EPISODE.size :]
            ]
            client.clock += steps
            client.fragment += 1
            self.sent += steps
            if client.fragment == len(recorded.fragments):
                messages.append(self._end(client, recorded, generation))
            entry = pack(messages)
            heapq.heapreplace(self._due, (due + steps / self._rate, number, False))
        client.wire.push([(client.position, entry)])

    def _end(self, client: Client, recorded: Recorded, generation: int) -> bytes:
        """Return the summary of a client's episode, and begin its next one."""
        episode = Episode(
            generation=generation, version=self._version[1], episode=client.episode,
            reward=recorded.reward, steps=recorded.steps, seconds=recorded.steps / self._rate,
            terminated=True, greedy=False, epsilon=0.0, info={},
        )  # fmt: skip
        client.recorded = self._rng.randrange(len(self._recorded))
        client.fragment, client.episode = 0, client.episode + 1
        return encode_message(episode, self._spec)

    def _heartbeat(self, client: Client) -> Heartbeat:
        return Heartbeat(
            steps=client.clock, episodes=client.episode, dropped=0, queued=0,
            version=self._version[1], restarts=0, waiting=False, faults={}, trouble="",
        )  # fmt: skip


def _recorded(spec: RunSpec) -> list[Recorded]:
    """Play at random; return the whole episodes, in fragments of a second."""
    environment = AdaptedEnvironment(make(ENVIRONMENT, {}), ENVIRONMENT, mask_key="", masked=False)
    fragments = [_copy(one) for one in played(environment, spec, steps=RECORDED_STEPS)]
    environment.close()
    episodes = [tuple(group) for _, group in groupby(fragments, lambda one: one.episode)]
    return [
        Recorded(
            episode,
            sum(float(one.reward.sum(dtype="f8")) for one in episode),
            sum(map(len, episode)),
        )
        for episode in episodes
        if episode[-1].ended
    ]


def _copy(fragment: Fragment) -> Fragment:
    """Return a fragment with arrays of its own, that ends as terminated where it ended."""
    return msgspec.structs.replace(
        fragment,
        obs={name: rows.copy() for name, rows in fragment.obs.items()},
        action=fragment.action.copy(),
        reward=fragment.reward.copy(),
        terminated=fragment.ended,
        truncated=False,
        epsilon=0.0,
    )


@contextmanager
def _node(redis: RedisSettings, steps_per_second: float) -> Iterator[psutil.Popen]:
    """Run a training node that does few updates."""
    settings = {
        "environment.id": ENVIRONMENT,
        "environment.realtime": "true",
        "run.max_env_steps": 0,
        "fragments.steps": 20,
        "training.compile": "never",
        "dqn.learning_starts": 1000,
        "dqn.explore_steps": 0,
        "dqn.replay_ratio": UPDATES_PER_SECOND / steps_per_second,
    }
    with tempfile.TemporaryDirectory() as saves, tempfile.TemporaryFile() as log:
        process = psutil.Popen(
            [
                *(sys.executable, "-m", "soulsai", "training-node"),
                *("--redis", redis.url, "--secrets", redis.secrets, "--saves", saves),
                *(f"--set={name}={value}" for name, value in settings.items()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            if process.wait() != 0:
                log.seek(0)
                sys.stderr.write(log.read()[-2000:].decode())


def _spec(wire: ClientWire, running: Callable[[], bool]) -> RunSpec:
    """Wait for the node to publish its run."""
    deadline = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < deadline and running():
        try:
            return wire.spec()
        except NoRun:
            time.sleep(0.2)
    raise SoulsAIError("the training node did not come up; run it by itself to see why")


def _settled(operator: OperatorWire, env_steps: int) -> Status:
    """Return the status once so many env steps are admitted, or after a while."""
    deadline = time.monotonic() + LAST_SECONDS
    while True:
        status = operator.status()
        if status is None:
            raise SoulsAIError("the training node has gone")
        if status.env_steps >= env_steps or time.monotonic() >= deadline:
            return status
        time.sleep(0.2)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
