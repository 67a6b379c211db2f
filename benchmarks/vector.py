"""A vector environment measured: one client with many games of CartPole, together and one by one.

Both are played in one run, by the same policy; CPU time of both threads of a client is compared,
which a busy machine does not change much.
"""

import random
from collections.abc import Callable, Iterator, Sequence

import msgspec

from benchmarks.client import CLIENT, Spent, play
from benchmarks.figure import Figure, at_least, beside
from soulsai.client.environment import PlayableEnvironment
from soulsai.client.in_process import InProcessEnvironment, InProcessVector
from soulsai.client.session import make_own, make_own_vector
from soulsai.config.schema import Config, RedisSettings, WatchdogSettings
from soulsai.testing.policy import toy_run
from soulsai.training_node.onnx_export import program, weights
from soulsai.training_node.start import build_algorithm
from soulsai.types import Array, EnvironmentOffer, Program, RunSpec, Weights
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_training
from soulsai.wire.secrets import server_for
from soulsai.wire.weights import program_digest

Policy = tuple[RunSpec, Program, dict[str, Array]]

ENVIRONMENT, COUNT = "CartPole-v1", 64
# 60,000 env steps/s, where single environments gave 21,000 on the same machine
LIMIT = 60_000 / 21_000
STEPS = 100_000
BALANCE = (0.05, 0.1, 1.0, 1.0)  # of place, speed, angle and its speed: keeps the pole up


def measure() -> Iterator[Figure]:
    """Yield the rates of a client, with a real server and the real background thread."""
    policies: dict[str, Callable[[EnvironmentOffer], Policy]] = {
        "a policy that balances": _balancing,
        "before training": _untrained,
    }
    for words, policy in policies.items():
        single, vector = (_spent(policy, vector=vector) for vector in (False, True))
        name = f"vector: {COUNT} {ENVIRONMENT}, {words}"
        peers = {"second": (vector.wall, single.wall), "CPU second": (vector.cpu, single.cpu)}
        for unit, (seconds, peer) in peers.items():
            yield beside(f"{name}: env steps per {unit}", STEPS / seconds, "", STEPS / peer)
        if policy is _balancing:
            ratio = single.cpu / vector.cpu
            yield at_least(f"{name}: times as many as single ones", ratio, "x", LIMIT)


def _balancing(offer: EnvironmentOffer) -> Policy:
    run, graph, arrays = toy_run(offer, run=CLIENT)
    arrays["w"][:, 1] = BALANCE
    return run, graph, arrays


def _untrained(offer: EnvironmentOffer) -> Policy:
    """Return the default network as a run begins with it: its episodes take some ten steps."""
    run, *_ = toy_run(offer, run=CLIENT)
    policy = build_algorithm(Config(), run.spec, seed=0).policy
    graph = program(policy, run.spec)
    run = msgspec.structs.replace(run, program_sha256=program_digest(graph), memory=graph.memory)
    return run, graph, weights(policy, graph)


def _spent(policy: Callable[[EnvironmentOffer], Policy], *, vector: bool) -> Spent:
    """Return the seconds that a client takes for ``STEPS`` env steps."""
    run, graph, arrays = policy(EnvironmentOffer(ENVIRONMENT, count=COUNT, vector=vector))
    with EmbeddedServer() as server:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        training = connect_training(server_for("training_node", redis), "soulsai")
        generation = training.open(run, graph, fresh=True)
        training.publish(Weights(CLIENT, generation, 1, arrays))
        spent = play(redis, run, graph, _environments(run, vector=vector), STEPS)
        training.close()
    return spent


def _environments(run: RunSpec, *, vector: bool) -> Sequence[PlayableEnvironment] | InProcessVector:
    offer, limits, rng = run.environment, WatchdogSettings(), random.Random(0)
    if vector:
        return InProcessVector(
            lambda: make_own_vector(ENVIRONMENT, offer, run.spec), limits, rng=rng
        )
    return [
        InProcessEnvironment(lambda _: make_own(ENVIRONMENT, offer, run.spec), limits, rng=rng)
        for _ in range(COUNT)
    ]
