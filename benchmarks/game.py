"""A game in real time with bad manners: how much of its experience arrives all the same.

Four clients play a stand-in that hangs, crashes, lags, leaks and fails to reset; beside them, in
the same run, four play one that does not. Nobody looks after them.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium
import msgspec

from benchmarks.figure import Figure, at_least
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.client.games import soulsgym
from soulsai.config.schema import (
    Config,
    EnvironmentSettings,
    FragmentSettings,
    RedisSettings,
    RunSettings,
    WatchdogSettings,
)
from soulsai.errors import SoulsAIError, WireError
from soulsai.launch.child_process import Child
from soulsai.testing.iudex import DIARY
from soulsai.types import Array, Kwargs, Status
from soulsai.wire.protocols import OperatorWire
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_operator
from soulsai.wire.secrets import server_for

LIMIT = 95.0  # per cent of the experience without faults
CLIENTS = 4  # of each kind
GAME = "soulsai.testing:SoulsGymIudex-v0"
NAMES = {"leak": "memory"}  # what the server calls the game's moods, where it is another word
STARTING_SECONDS = 180.0
SETTLING_SECONDS = 60.0  # until the last fault has been noticed and told
WATCHDOG = WatchdogSettings(
    step_seconds=3.0,
    reset_seconds=15.0,
    start_seconds=60.0,
    steps_per_minute=300.0,  # half of what the game should give
    slow_seconds=10.0,
    memory_mb=300.0,
)


def polite(**kwargs: Any) -> gymnasium.Env[Array, Any]:
    """Make the same game, with good manners."""
    return soulsgym.make(GAME, {**kwargs, "faults_per_hour": 0.0})


def measure(minutes: float, faults_per_hour: float) -> Iterator[Figure]:
    """Yield the share of experience that arrives, and how many faults the server names."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedServer())
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        wire = connect_operator(server_for("operator", redis), "soulsai")
        stack.callback(wire.close)
        crew = _Crew(_settings(folder, redis, faults_per_hour), folder)
        stack.callback(crew.kill)
        before = crew.begin(wire)
        after = crew.watch(wire, 60.0 * minutes)
        confessed = crew.confessed()
        named = crew.settle(wire, confessed)
    played = {name: after[name] - before[name] for name in after}
    sick = sum(steps for name, steps in played.items() if name.startswith("sick"))
    well = sum(steps for name, steps in played.items() if name.startswith("well"))
    yield at_least("game: env steps that arrive in spite of faults", 100 * sick / well, "%", LIMIT)
    for mood, count in sorted(confessed.items()):
        what = f"game: faults of kind {mood} that the server names"
        yield at_least(what, named[NAMES.get(mood, mood)], "", count)


def _settings(folder: Path, redis: RedisSettings, faults_per_hour: float) -> Config:
    kwargs: Kwargs = {
        "faults_per_hour": faults_per_hour,
    }
    return Config(
        run=RunSettings(saves=str(folder / "saves"), seed=0, max_env_steps=0),
        redis=redis,
        environment=EnvironmentSettings(id=GAME, kwargs=kwargs, realtime=True),
        watchdog=WATCHDOG,
        fragments=FragmentSettings(seconds=1.0),
        dqn=DQNSettings(hidden=(64, 64), replay_ratio=0.1, learning_starts=500),
    )


class _Crew:
    """The processes: one training node and the clients; none of them may end."""

    def __init__(self, config: Config, folder: Path) -> None:
        settings = folder / "config.json"
        settings.touch(mode=0o600)
        settings.write_bytes(msgspec.json.encode(config))
        self._diaries = folder
        node = ["training-node", str(settings)]
        self._children = [Child("node", lambda _: node, folder / "node.log", dict(os.environ))]
        for kind, id in (("sick", GAME), ("well", f"{__name__}:polite")):
            self._children += [
                self._client(f"{kind}-{number}", id, settings) for number in range(CLIENTS)
            ]
        self._names = [child.name for child in self._children[1:]]

    def begin(self, wire: OperatorWire) -> dict[str, int]:
        """Start everybody; return how many env steps each has sent when all of them play."""
        deadline = time.monotonic() + STARTING_SECONDS
        for child in self._children:
            child.start()
        while True:
            steps = _steps(_status(wire))
            if all(steps.get(name) for name in self._names):
                return steps
            self._check(deadline)

    def watch(self, wire: OperatorWire, seconds: float) -> dict[str, int]:
        """Let them play; return how many env steps each has sent then."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._check(until + 1.0)
        return _steps(_status(wire))

    def settle(self, wire: OperatorWire, confessed: Counter[str]) -> Counter[str]:
        """Return the faults that the server names, once it had the time to hear of them."""
        wanted = Counter({NAMES.get(mood, mood): count for mood, count in confessed.items()})
        until = time.monotonic() + SETTLING_SECONDS
        while True:
            status = _status(wire)
            found: Counter[str] = Counter()
            for client in status.clients if status else ():
                found.update(client.faults)
                self._tell(f"{client.client}: {client.faults} {client.trouble}")
            if wanted <= found or time.monotonic() >= until:
                return found
            self._check(until + 1.0)

    def confessed(self) -> Counter[str]:
        """Return what the games themselves say that they have done."""
        lines = [
            line
            for diary in self._diaries.glob("*.diary")
            for line in diary.read_text().split("\n")
        ]
        return Counter(line.split()[1] for line in lines if line)

    def kill(self) -> None:
        """End everybody."""
        for child in self._children:
            child.kill()

    def _client(self, name: str, id: str, settings: Path) -> Child:
        words = ["client", str(settings), "--env", id, "--name", name]
        environ = {**os.environ, DIARY: str(settings.parent / f"{name}.diary")}
        return Child(name, lambda _: words, settings.parent / f"{name}.log", environ)

    def _check(self, deadline: float) -> None:
        """Wait a second; raise if somebody has ended, or if it takes too long."""
        time.sleep(1.0)
        for child in self._children:
            if verdict := child.poll(time.monotonic()):
                raise SoulsAIError(f"{child.name} {verdict.reason}: {child.tail(3)}")
        if time.monotonic() >= deadline:
            raise SoulsAIError(f"nothing plays after {STARTING_SECONDS:.0f} s")

    def _tell(self, line: str) -> None:
        sys.stderr.write(line + "\n")


def _status(wire: OperatorWire) -> Status | None:
    try:
        return wire.status()
    except WireError:
        return None


def _steps(status: Status | None) -> dict[str, int]:
    return {client.client: client.admitted for client in status.clients} if status else {}
