"""A client measured: what a step costs beyond the environment's step and the policy's inference.

All in CPU time, of both threads of a client: a busy machine does not change it much. What a step
costs more in a process of its own is the difference of two medians.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from benchmarks.default_policy import RUN, default_policy
from benchmarks.figure import Figure, at_least, at_most
from soulsai.client.actor import Actor
from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment, PlayableEnvironment
from soulsai.client.in_process import InProcessEnvironment
from soulsai.client.isolation.environment import IsolatedEnvironment, start
from soulsai.client.player import Player
from soulsai.client.player_link import Outbox, PlayerProgress
from soulsai.client.probe import probe
from soulsai.client.session import make_own
from soulsai.client.unconfirmed import UnconfirmedEntries
from soulsai.client.uplink import Uplink
from soulsai.client.vector_environment import PlayableVector
from soulsai.config.schema import EnvironmentSettings, RedisSettings, WatchdogSettings
from soulsai.testing import ToyEnv
from soulsai.testing.policy import toy_run
from soulsai.types import (
    PROTOCOL,
    EnvironmentOffer,
    Hello,
    Program,
    RunSpec,
    Spec,
    Weights,
    zeros,
)
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import server_for

ENVIRONMENT = "LunarLander-v3"
CLIENT = "bench"
STEP_LIMIT = 60.0  # microseconds
SMALL = "CartPole-v1"
SMALL_LIMITS = {1: 45.0, 16: 12.0}  # microseconds, by environments in one client
SMALL_STEPS = 40_000
ISOLATED_LIMIT = 150.0  # microseconds
SIDE_BY_SIDE, SLOW_STEP = 4, 0.05  # isolated environments in one client; seconds of a step
SIDE_BY_SIDE_LIMIT = 70.0  # steps/s, of 80 that are possible


class Timed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that adds up its own time."""

    seconds = 0.0

    def step(self, action: Any) -> Any:
        """Step, timed."""
        began = time.thread_time()
        outcome = self.env.step(action)
        self.seconds += time.thread_time() - began
        return outcome

    def reset(self, **options: Any) -> Any:
        """Reset, timed."""
        began = time.thread_time()
        outcome = self.env.reset(**options)
        self.seconds += time.thread_time() - began
        return outcome


def measure(steps: int = 100_000) -> Iterator[Figure]:
    """Yield the price of a step, with a real server and the real background thread."""
    timed = Timed(make(ENVIRONMENT, {}))
    environment = AdaptedEnvironment(timed, ENVIRONMENT, mask_key="", masked=False)
    spec, graph, arrays = default_policy(EnvironmentOffer(ENVIRONMENT), environment.spec)
    with EmbeddedServer() as server:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        training = connect_training(server_for("training_node", redis), "soulsai")
        generation = training.open(spec, graph, fresh=True)
        first = Weights(RUN, generation, 1, arrays)
        training.publish(first)
        seconds = play(redis, spec, graph, [environment], steps).cpu
        training.close()
    spent = (
        seconds - timed.seconds - steps * _inference(Actor.load(graph, first, spec.spec), spec.spec)
    )
    yield at_most(
        "client: a step beyond env.step and inference", 1e6 * spent / steps, "us", STEP_LIMIT
    )
    environment.close()
    bare = min(_bare() for _ in range(3))
    for count, limit in SMALL_LIMITS.items():
        yield at_most(
            f"client: a step of {SMALL} beyond the environment's own, {count} in one client",
            1e6 * (min(_small(count) for _ in range(3)) - bare),
            "us",
            limit,
        )
    yield at_most(
        "client: a step in a process of its own beyond the same step here",
        1e6 * _isolated(),
        "us",
        ISOLATED_LIMIT,
    )
    yield at_least(
        f"client: {SIDE_BY_SIDE} isolated environments of {1e3 * SLOW_STEP:g} ms side by side",
        _side_by_side(),
        "steps/s",
        SIDE_BY_SIDE_LIMIT,
    )


class Spent(NamedTuple):
    """The seconds that a client has taken: of the processor, and by the clock."""

    cpu: float
    wall: float


def play(
    redis: RedisSettings,
    spec: RunSpec,
    graph: Program,
    environments: Sequence[PlayableEnvironment] | PlayableVector,
    steps: int,
) -> Spent:
    """Play so many steps, with a real background thread, and return what they took."""
    wire = connect_client(server_for("client", redis), "soulsai", CLIENT)
    wire.spec()
    count = spec.environment.count
    hello = Hello(CLIENT, PROTOCOL, CLIENT, spec.environment.id, count, spec.crc)
    position = wire.hello(hello)
    progress = PlayerProgress()
    outbox = Outbox(64_000_000, time.monotonic)
    rng = random.Random(0)
    unconfirmed = UnconfirmedEntries()
    with Uplink(
        wire, spec, graph, outbox, progress, position=position, rng=rng, unconfirmed=unconfirmed
    ) as uplink:
        while uplink.instructions.actor is None:
            uplink.wait(uplink.instructions, 1.0)
        player = Player(
            environments,
            spec,
            graph.head,
            uplink,
            progress,
            client=CLIENT,
            epoch=position.epoch,
            rng=np.random.default_rng(0),
            seeds=range(count),
        )
        began, cpu = time.perf_counter(), time.process_time()
        player.run(_after(progress, steps))
        spent = Spent(time.process_time() - cpu, time.perf_counter() - began)
    wire.close()
    return spent


def _after(progress: PlayerProgress, steps: int) -> Callable[[], bool]:
    return lambda: progress.steps >= steps


def _inference(actor: Actor, spec: Spec, calls: int = 20_000) -> float:
    """Return the seconds that one policy call takes for one environment."""
    obs = {name: zeros(leaf, 1) for name, leaf in spec.obs.items()}
    began = time.thread_time()
    for _ in range(calls):
        actor(obs, {})
    return (time.thread_time() - began) / calls


def _bare(steps: int = SMALL_STEPS) -> float:
    """Return the seconds of a random step of a small environment, resets included."""
    env = make(SMALL, {})
    actions = np.random.default_rng(0).integers(0, 2, steps).tolist()
    env.reset(seed=0)
    began = time.process_time()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return (time.process_time() - began) / steps


def _small(count: int, steps: int = SMALL_STEPS) -> float:
    """Return the seconds of a random step of small environments in one client, with its policy."""
    offer = EnvironmentOffer(SMALL, count=count)
    spec = probe(EnvironmentSettings(id=SMALL))
    run, graph, arrays = default_policy(offer, spec)
    limits, rng = WatchdogSettings(), random.Random(0)
    environments = [
        InProcessEnvironment(lambda _: make_own(SMALL, offer, spec), limits, rng=rng)
        for _ in range(count)
    ]
    with EmbeddedServer() as server:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        training = connect_training(server_for("training_node", redis), "soulsai")
        generation = training.open(run, graph, fresh=True)
        training.publish(Weights(RUN, generation, 1, arrays, exploration={"random": 1.0}))
        spent = play(redis, run, graph, environments, steps).cpu
        training.close()
    return spent / steps


def _isolated(steps: int = 20_000) -> float:
    """Return the seconds that a step takes longer in a process of its own; medians of both."""
    name = "CartPole-v1"
    here = AdaptedEnvironment(make(name, {}), name, mask_key="", masked=False)
    there = IsolatedEnvironment(
        name,
        EnvironmentOffer(name),
        here.spec,
        WatchdogSettings(),
        stopped=lambda: False,
        rng=random.Random(0),
    )
    rows = {leaf: zeros(each) for leaf, each in here.spec.obs.items()}
    start(there, lambda: False)
    taken: dict[str, list[float]] = {"here": [], "there": []}
    for name, one in (("here", here), ("there", there)):
        one.reset(rows, 0)
        for number in range(steps):
            began = time.perf_counter()
            outcome = one.step(number % 2, rows)
            taken[name].append(time.perf_counter() - began)
            if outcome.terminated or outcome.truncated:
                one.reset(rows)
        one.close()
    return float(np.median(taken["there"]) - np.median(taken["here"]))


class SlowEnv(ToyEnv):
    """Takes 50 ms per step, as a game does."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Sleep, then take a step."""
        time.sleep(SLOW_STEP)
        return super().step(action)


def _side_by_side(steps: int = 400) -> float:
    """Return the steps per second of one client with several slow isolated environments."""
    id = "benchmarks.client:SlowEnv"
    run, graph, arrays = toy_run(EnvironmentOffer(id, count=SIDE_BY_SIDE), run=CLIENT)
    with EmbeddedServer() as server, ExitStack() as stack:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        training = connect_training(server_for("training_node", redis), "soulsai")
        stack.callback(training.close)
        generation = training.open(run, graph, fresh=True)
        training.publish(Weights(RUN, generation, 1, arrays))
        environments = []
        for _ in range(SIDE_BY_SIDE):
            environment = IsolatedEnvironment(
                id,
                run.environment,
                run.spec,
                WatchdogSettings(),
                stopped=lambda: False,
                rng=random.Random(0),
            )
            stack.callback(environment.close)
            environments.append(environment)
            start(environment, lambda: False)
        began = time.perf_counter()
        play(redis, run, graph, environments, steps)
        return steps / (time.perf_counter() - began)
