"""The wire measured: bytes per transition, and transitions per second from the server to replay."""

import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from tempfile import TemporaryDirectory

import numpy as np
from msgspec import Struct

from benchmarks.figure import Figure, at_least, at_most
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.recorder import Columns, Recorder
from soulsai.config.schema import Config, EnvironmentSettings, RedisSettings, RunSettings
from soulsai.errors import SoulsAIError
from soulsai.heads import Exploration
from soulsai.training_node.node import TrainingNode
from soulsai.training_node.start import TrainingRun, new_run
from soulsai.types import PROTOCOL, Fragment, Hello, RunSpec, zeros
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.protocols import ClientWire, Position, TrainingWire
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import server_for

ENVIRONMENT = "LunarLander-v3"
CLIENT = "bench"
CLIENTS = 100
BYTES_LIMIT = 60.0  # per transition
INGEST_LIMIT = 200_000.0  # transitions per second of one core
LAP = 100_000  # more than there are steps in all messages

_PLACE = struct.Struct("<QdI")  # clock, epsilon and episode, behind a message's first 12 bytes
_PLACE_AT = 12


class Message(Struct, frozen=True):
    """One fragment, encoded, and that of the same steps as part of later episodes."""

    data: bytes
    steps: int

    def lap(self, number: int) -> bytes:
        """Return what it is when all messages are sent for the n-th time: no step comes twice."""
        clock, epsilon, episode = _PLACE.unpack_from(self.data, _PLACE_AT)
        place = _PLACE.pack(clock + number * LAP, epsilon, episode + number * LAP)
        return self.data[:_PLACE_AT] + place + self.data[_PLACE_AT + _PLACE.size :]


def measure(transitions: int = 300_000) -> Iterator[Figure]:
    """Yield both figures, measured through a private server."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        saves = stack.enter_context(TemporaryDirectory())
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        environment = AdaptedEnvironment(
            make(ENVIRONMENT, {}), ENVIRONMENT, mask_key="", masked=False
        )
        stack.callback(environment.close)
        config = Config(
            redis=redis,
            environment=EnvironmentSettings(id=ENVIRONMENT, realtime=True),
            run=RunSettings(saves=saves, max_env_steps=0, seed=0),
            dqn=DQNSettings(learning_starts=10**9, capacity=200_000),
        )
        training = connect_training(server_for("training_node", redis), "soulsai")
        stack.callback(training.close)
        run = new_run(config, environment.spec, training, datetime.now().astimezone())
        messages = [
            Message(encode_message(fragment, run.spec), len(fragment))
            for fragment in played(environment, run.spec, steps=20_000)
        ]
        link = RedisConnection(server_for("metrics", redis), CLIENT)
        stack.callback(link.close)
        before, steps = statistic(link, "total_net_input_bytes"), 0
        for number in range(CLIENTS):
            player = connect_client(server_for("client", redis), "soulsai", f"{CLIENT}-{number}")
            steps += _play(player, messages, run.spec, transitions // CLIENTS)
            player.close()
        spent = statistic(link, "total_net_input_bytes") - before
        yield at_most("wire: bytes per LunarLander transition", spent / steps, "B", BYTES_LIMIT)
        yield _ingest(run, training, steps)


def _play(player: ClientWire, messages: Sequence[Message], spec: RunSpec, transitions: int) -> int:
    """Send one client's experience, one fragment per entry; return the number of env steps."""
    player.spec()
    position = player.hello(Hello(spec.run, PROTOCOL, CLIENT, ENVIRONMENT, 1, spec.crc))
    steps = place = 0
    while steps < transitions:
        lap, index = divmod(place, len(messages))
        place += 1
        entry = Position(position.epoch, position.seq + place), pack([messages[index].lap(lap)])
        player.push([entry])
        steps += messages[index].steps
    return steps


def _ingest(run: TrainingRun, training: TrainingWire, steps: int) -> Figure:
    """Time all that the training node does with entries, by this process's share of a core."""
    looks: list[tuple[float, int]] = []  # CPU seconds, and env steps until then

    def all_came() -> bool:
        looks.append((time.process_time(), run.progress.env_steps))
        return run.progress.env_steps >= steps or bool(run.progress.rejected)

    status = TrainingNode(run, training, stopped=all_came).run()
    if status.rejected:
        raise SoulsAIError(f"not all was admitted: {status.rejected}")
    began = next(look for look in looks if look[1])
    done = next(look for look in looks if look[1] >= steps)
    rate = (done[1] - began[1]) / (done[0] - began[0])
    return at_least("wire: transitions from the server into replay", rate, "1/s", INGEST_LIMIT)


def statistic(link: RedisConnection, name: str) -> int:
    """Return a counter of the server, such as ``total_net_output_bytes``."""
    stats = bytes(link.execute("INFO", "stats")).decode()
    lines = dict(line.split(":", 1) for line in stats.splitlines() if ":" in line)
    return int(lines[name])


def played(environment: AdaptedEnvironment, spec: RunSpec, steps: int) -> Iterator[Fragment]:
    """Play at random, and cut as a client cuts; use each fragment before the next."""
    action_spec, leaf = environment.spec.action, environment.spec.action.leaf
    rng = np.random.default_rng(0)
    exploration = Exploration(greedy=False, epsilon=0.25)
    recorder = Recorder(CLIENT, 1, spec, Columns(spec, 1), 0)
    rows = {name: zeros(leaf) for name, leaf in environment.spec.obs.items()}
    taken = episode = 0
    environment.reset(rows, 0)
    recorder.exploration = exploration
    recorder.begin(episode, rows)
    while taken < steps:
        action = np.asarray(rng.integers(action_spec.sizes[0]), leaf.dtype)
        outcome = environment.step(int(action), rows)
        recorder.add(action, outcome.reward, {}, 0, rows)
        over = outcome.terminated or outcome.truncated
        if over or recorder.length == recorder.capacity:
            terminated, truncated = outcome.terminated, outcome.truncated
            yield recorder.cut(taken, terminated=terminated, truncated=truncated)
            taken += recorder.length
            recorder.resume()
        if over:
            episode += 1
            environment.reset(rows)
            recorder.begin(episode, rows)
