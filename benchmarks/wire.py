"""The wire measured: bytes per transition, and transitions per second from the server to replay."""

import struct
import time
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from benchmarks.default_policy import run_of
from benchmarks.figure import Figure, at_least, at_most
from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.recorder import Columns, Recorder
from soulsai.config.schema import Config, RedisSettings
from soulsai.heads import Exploration
from soulsai.training_node.admission import Admission
from soulsai.training_node.onnx_export import program
from soulsai.training_node.start import build_algorithm
from soulsai.types import (
    PROTOCOL,
    EnvironmentOffer,
    Fragment,
    Hello,
    RunSpec,
    zeros,
)
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.protocols import ClientWire, Position, TrainingWire
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import server_for

ENVIRONMENT = "LunarLander-v3"
CLIENT = "bench"
BYTES_LIMIT = 60.0  # per transition
INGEST_LIMIT = 200_000.0  # transitions per second of one core
PER_ENTRY = 4  # fragments in one entry, as when a client plays at full speed
ROUND = 200  # entries pushed at a time, then read
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
    environment = AdaptedEnvironment(make(ENVIRONMENT, {}), ENVIRONMENT, mask_key="", masked=False)
    config = Config(dqn=DQNSettings(learning_starts=10**9, capacity=200_000))
    algorithm = build_algorithm(config, environment.spec, seed=0)
    graph = program(algorithm.policy, environment.spec)
    offer = EnvironmentOffer(ENVIRONMENT)
    spec = run_of(offer, environment.spec, graph, stream_entries=100_000)
    messages = [
        Message(encode_message(fragment, spec), len(fragment))
        for fragment in played(environment, spec, steps=20_000)
    ]
    environment.close()
    with EmbeddedServer() as server:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        training = connect_training(server_for("training_node", redis), "soulsai")
        training.open(spec, graph, fresh=True)
        player = connect_client(server_for("client", redis), "soulsai", CLIENT)
        player.spec()
        link = RedisConnection(server_for("metrics", redis), CLIENT)
        yield _bytes(player, link, messages, spec)
        yield _ingest(player, training, algorithm, messages, spec, transitions)
        for wire in (player, training, link):
            wire.close()


def _bytes(
    player: ClientWire, link: RedisConnection, messages: Sequence[Message], spec: RunSpec
) -> Figure:
    """Count what the server receives when entries are pushed one by one, at its lowest thrift."""
    sent, steps = _entries(messages, _hello(player, spec), len(messages) // PER_ENTRY)
    before = statistic(link, "total_net_input_bytes")
    for entry in sent:
        player.push([entry])
    spent = statistic(link, "total_net_input_bytes") - before
    return at_most("wire: bytes per LunarLander transition", spent / steps, "B", BYTES_LIMIT)


def _ingest(
    player: ClientWire,
    training: TrainingWire,
    algorithm: Algorithm,
    messages: Sequence[Message],
    spec: RunSpec,
    transitions: int,
) -> Figure:
    """Time reading, decoding, judging and storing, by this process's own share of a core."""
    admission = Admission(
        spec,
        algorithm.policy.head,
        lambda entry: decode_entry(entry, spec),
        marks={},
        newest=(1, 1),
        now=time.time,
    )
    position = _hello(player, spec)
    admitted, seconds = 0, 0.0
    while admitted < transitions:
        sent, _ = _entries(messages, position, ROUND)
        player.push(sent)
        position = sent[-1][0]
        began = time.process_time()
        while admission.position(CLIENT) < position:
            entries = training.read({CLIENT: admission.position(CLIENT)}, 1.0)
            arrivals = [admission.admit(entry) for entry in entries]
            fragments = [fragment for arrival in arrivals for fragment in arrival.fragments]
            admitted += sum(len(fragment) for fragment in fragments)
            for _ in algorithm.learn([fragments]):
                pass
        seconds += time.process_time() - began
    rate = admitted / seconds
    return at_least("wire: transitions from the server into replay", rate, "1/s", INGEST_LIMIT)


def _hello(player: ClientWire, spec: RunSpec) -> Position:
    return player.hello(Hello(spec.run, PROTOCOL, CLIENT, ENVIRONMENT, 1, spec.crc))


def _entries(
    messages: Sequence[Message], after: Position, count: int
) -> tuple[list[tuple[Position, bytes]], int]:
    """Return entries that follow a position, and the env steps in them."""
    sent = after.seq * PER_ENTRY  # before
    entries, steps = [], 0
    for index in range(count):
        places = range(sent + index * PER_ENTRY, sent + (index + 1) * PER_ENTRY)
        laps = [divmod(place, len(messages)) for place in places]
        together = [messages[place] for _, place in laps]
        data = pack([messages[place].lap(number) for number, place in laps])
        entries.append((Position(after.epoch, after.seq + 1 + index), data))
        steps += sum(message.steps for message in together)
    return entries, steps


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
