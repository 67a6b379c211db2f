"""Discovery measured: what it costs to find a client among the keys of others."""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.figure import Figure, at_most
from soulsai.config.schema import RedisSettings
from soulsai.testing.policy import toy_run
from soulsai.types import PROTOCOL, EnvironmentOffer, Hello
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import server_for

KEYS, BATCH = 1_000_000, 10_000
LOOKS = 100
LOOK_LIMIT = 200.0  # ms; half of the time between two looks
FOUND_LIMIT = 33.0  # looks, of at most 32,000 keys each


def measure() -> Iterator[Figure]:
    """Yield the time of a look for clients, and the number of looks until a new one is found."""
    spec, program, _ = toy_run(EnvironmentOffer("soulsai.testing:ToyEnv"))
    with EmbeddedServer() as server:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        node = connect_training(server_for("training_node", redis), "soulsai")
        node.open(spec, program, fresh=True)
        link = RedisConnection(server_for("training_node", redis), "bench")
        for first in range(0, KEYS, BATCH):
            link.execute_all(
                [("SET", f"soulsai:{{other}}:{n}", b"") for n in range(first, first + BATCH)]
            )
        times = []
        for _ in range(LOOKS):
            began = time.perf_counter()
            node.clients()
            times.append(1e3 * (time.perf_counter() - began))
        player = connect_client(server_for("client", redis), "soulsai", "new")
        player.hello(Hello(spec.run, PROTOCOL, "bench", "bench", 1, spec.crc))
        looks = 1
        while "new" not in node.clients():
            looks += 1
        for wire in (player, node, link):
            wire.close()
    name = f"discovery: a look for clients among {KEYS:,} keys of others"
    yield at_most(name, float(np.median(times)), "ms", LOOK_LIMIT)
    yield at_most("discovery: looks until a new client is found", looks, "looks", FOUND_LIMIT)
