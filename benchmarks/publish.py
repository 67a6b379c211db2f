"""Publication to use: how late a client on the same machine acts with a new version.

A client's real background thread follows a real server; the player waits for each version as it
does for a new quota. Messages of the player and heartbeats come between, often at the same moment.
Then several clients do, with and without weights that they share.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from msgspec import Struct

from benchmarks.default_policy import RUN, default_policy
from benchmarks.figure import Figure, at_most
from benchmarks.wire import statistic
from soulsai.client.player_link import Outbox, PlayerProgress
from soulsai.client.probe import probe
from soulsai.client.trial_load import try_program
from soulsai.client.unconfirmed import UnconfirmedEntries
from soulsai.client.uplink import Uplink
from soulsai.config.schema import EnvironmentSettings, RedisSettings
from soulsai.errors import SoulsAIError
from soulsai.types import (
    PROTOCOL,
    EnvironmentOffer,
    Episode,
    Hello,
    Weights,
)
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import server_for
from soulsai.wire.shared_weights import SharedWeights

ENVIRONMENT = "LunarLander-v3"
CLIENTS, TURNS = 8, 3  # of one machine, and turns with and without weights that they share
SHARED_BYTES = 64_000_000  # as client.shared_weights_mb
SHARED_LIMIT = 0.2  # of the bytes; an eighth, and what else clients read
SHARED_DELAY_LIMIT = 2.0  # all but one wait for that one
LATE_LIMIT = 20.0  # ms, of 99 % of the versions
LATEST_LIMIT = 100.0  # ms
HEARTBEAT_SECONDS = 0.1  # many, so that some are due together with a version
SENT = "total_net_output_bytes"
PAUSE_SECONDS = 0.01  # at most, before a version
PATIENCE_SECONDS = 10.0


def measure(versions: int) -> Iterator[Figure]:
    """Yield the delays of one client, and what several of one machine take from the server.

    Args:
        versions: Versions for the one client; each turn of the several has a tenth of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        delays, _ = _published(versions, 1, Path(folder))
        spent = 1e3 * np.array(delays)
        title = f"publish: to used, of {versions} versions"
        late = float(np.percentile(spent, 99))
        yield at_most(f"{title}, 99th percentile", late, "ms", LATE_LIMIT)
        yield at_most(f"{title}, longest", float(spent.max()), "ms", LATEST_LIMIT)
        shared, alone = _Total(), _Total()
        for _ in range(TURNS):
            for total, place in ((shared, Path(folder)), (alone, None)):
                total.add(*_published(versions // 10, CLIENTS, place))
    title = (
        f"publish: {CLIENTS} clients of one machine that share weights, ratio to those that do not"
    )
    yield at_most(f"{title}, bytes from the server", shared.sent / alone.sent, "", SHARED_LIMIT)
    ratio = np.percentile(shared.delays, 50) / np.percentile(alone.delays, 50)
    yield at_most(f"{title}, to used by all, median", float(ratio), "", SHARED_DELAY_LIMIT)


class _Total(Struct):
    """Delays and bytes of several turns."""

    delays: list[float] = []
    sent: int = 0

    def add(self, delays: list[float], sent: int) -> None:
        self.delays += delays
        self.sent += sent


def _published(versions: int, clients: int, folder: Path | None) -> tuple[list[float], int]:
    """Return the seconds from each publication to its use by all, and the server's bytes.

    Args:
        versions: Their number.
        clients: The clients, each of which follows with a connection of its own.
        folder: The folder of the weights that they share; ``None``: they share none.
    """
    spec = probe(EnvironmentSettings(id=ENVIRONMENT))
    offer = EnvironmentOffer(ENVIRONMENT)
    run, graph, arrays = default_policy(offer, spec, heartbeat_seconds=HEARTBEAT_SECONDS)
    rng, delays = random.Random(0), list[float]()
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        watcher = RedisConnection(server_for("metrics", redis), "bench")
        stack.callback(watcher.close)
        training = stack.enter_context(
            closing(connect_training(server_for("training_node", redis), "soulsai"))
        )
        generation = training.open(run, graph, fresh=True)
        uplinks = []
        for number in range(clients):
            shared = SharedWeights(folder, SHARED_BYTES) if folder is not None else None
            wire = stack.enter_context(closing(
                connect_client(server_for("client", redis), "soulsai", f"bench-{number}", shared)
            ))  # fmt: skip
            wire.spec()
            position = wire.hello(Hello(RUN, PROTOCOL, "bench", ENVIRONMENT, 1, run.crc))
            uplinks.append(stack.enter_context(Uplink(
                wire, run, graph, Outbox(64_000_000, time.monotonic), PlayerProgress(),
                position=position, rng=rng, unconfirmed=UnconfirmedEntries(),
                trial=try_program if clients == 1 else None,
            )))  # fmt: skip
        before = statistic(watcher, SENT)
        for version in range(1, versions + 1):
            time.sleep(PAUSE_SECONDS * rng.random())
            for uplink in uplinks:
                if rng.random() < 0.5:  # the player's wake
                    uplink.send(Episode(generation, 0, version, 1.0, 10, 1.0, True, False, 0.0))
            # Not the bytes of the version before, which would be shared already.
            arrays = {name: array + array.dtype.type(1) for name, array in arrays.items()}
            began = time.monotonic()
            training.publish(Weights(RUN, generation, version, arrays))
            for uplink in uplinks:
                _await(uplink, version, began)
            delays.append(time.monotonic() - began)
        sent = statistic(watcher, SENT) - before
    return delays[1:], sent  # the first is loaded in a process of its own before


def _await(uplink: Uplink, version: int, began: float) -> None:
    """Wait as a player does until it may act with a version."""
    while True:
        given = uplink.instructions
        if given.actor is not None and given.actor.version >= version:
            return
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise SoulsAIError(f"version {version} has not come to be used")
        uplink.wait(given, 1.0)
