"""Publication to use: how late a client on the same machine acts with a new version.

A client's real background thread follows a real server; the player waits for each version as it
does for a new quota. Messages of the player and heartbeats come between, often at the same moment.
"""

import random
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.default_policy import RUN, default_policy
from benchmarks.figure import Figure, at_most
from soulsai.client.player_link import Outbox, PlayerProgress
from soulsai.client.probe import probe
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
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import server_for

ENVIRONMENT = "LunarLander-v3"
CLIENT = "bench"
VERSIONS = 2000
LATE_LIMIT = 20.0  # ms, of 99 % of the versions
LATEST_LIMIT = 100.0  # ms
HEARTBEAT_SECONDS = 0.1  # many, so that some are due together with a version
PAUSE_SECONDS = 0.01  # at most, before a version
PATIENCE_SECONDS = 10.0


def measure(versions: int = VERSIONS) -> Iterator[Figure]:
    """Yield the 99th percentile of the delay, and the longest one."""
    spent = 1e3 * np.array(_delays(versions))
    title = f"publish: to used, of {versions} versions"
    yield at_most(f"{title}, 99th percentile", float(np.percentile(spent, 99)), "ms", LATE_LIMIT)
    yield at_most(f"{title}, longest", float(spent.max()), "ms", LATEST_LIMIT)


def _delays(versions: int) -> list[float]:
    """Return the seconds from each publication to the version's use."""
    spec = probe(EnvironmentSettings(id=ENVIRONMENT))
    offer = EnvironmentOffer(ENVIRONMENT)
    run, graph, arrays = default_policy(offer, spec, heartbeat_seconds=HEARTBEAT_SECONDS)
    rng, delays = random.Random(0), list[float]()
    outbox, progress = Outbox(64_000_000, time.monotonic), PlayerProgress()
    with EmbeddedServer() as server:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        training = connect_training(server_for("training_node", redis), "soulsai")
        generation = training.open(run, graph, fresh=True)
        wire = connect_client(server_for("client", redis), "soulsai", CLIENT)
        wire.spec()
        position = wire.hello(Hello(RUN, PROTOCOL, CLIENT, ENVIRONMENT, 1, run.crc))
        with Uplink(
            wire, run, graph, outbox, progress, position=position, rng=rng,
            unconfirmed=UnconfirmedEntries(),
        ) as uplink:  # fmt: skip
            for version in range(1, versions + 1):
                time.sleep(PAUSE_SECONDS * rng.random())
                if rng.random() < 0.5:  # the player's wake
                    uplink.send(Episode(generation, 0, version, 1.0, 10, 1.0, True, False, 0.0))
                began = time.monotonic()
                training.publish(Weights(RUN, generation, version, arrays))
                _await(uplink, version, began)
                delays.append(time.monotonic() - began)
        wire.close()
        training.close()
    return delays[1:]  # the first is loaded in a process of its own before


def _await(uplink: Uplink, version: int, began: float) -> None:
    """Wait as a player does until it may act with a version."""
    while True:
        given = uplink.instructions
        if given.actor is not None and given.actor.version >= version:
            return
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise SoulsAIError(f"version {version} has not come to be used")
        uplink.wait(given, 1.0)
