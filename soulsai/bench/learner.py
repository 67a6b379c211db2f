"""The learner measured: DQN updates per second against stable-baselines3, in one process."""

import time
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import torch

from soulsai.algorithms import build
from soulsai.algorithms.base import Algorithm
from soulsai.bench import Figure, at_least, beside
from soulsai.config import DQN, AlgorithmChoice, Config
from soulsai.errors import ConfigError
from soulsai.types import ActionSpec, Fragment, Leaf, Spec

LIMIT = 1.5  # times the peer
WIDTH, BATCH = (128, 128), 64
OBS, ACTIONS = 8, 4  # LunarLander's
STORED = 20_000  # rows in either replay
ROUNDS, UPDATES = 5, 400  # the two take turns, so that a noisy machine is noisy for both


def measure() -> Iterator[Figure]:
    """Yield our rate with the peer's features, and with all of ours."""
    torch.set_num_threads(1)
    peer = _peer()
    plain = _ours(
        DQN(
            hidden=WIDTH,
            batch_size=BATCH,
            quantiles=1,
            layer_norm=False,
            dueling=False,
            double=False,
            prioritized=False,
            normalize_obs=False,
            n_step=1,
        )
    )
    full = _ours(DQN(hidden=WIDTH, batch_size=BATCH))
    rates: dict[str, list[float]] = {"peer": [], "plain": [], "full": []}
    for _ in range(ROUNDS):
        for name, run in (("peer", peer), ("plain", plain), ("full", full)):
            began = time.perf_counter()
            run(UPDATES)
            rates[name].append(UPDATES / (time.perf_counter() - began))
    theirs = float(np.median(rates["peer"]))
    plainly, fully = float(np.median(rates["plain"])), float(np.median(rates["full"]))
    what = "learner: DQN updates, 128-128, batch 64, one thread"
    yield at_least(f"{what}, the peer's features", plainly, "1/s", LIMIT * theirs)
    yield beside(f"{what}, all our features", fully, "1/s", theirs)


def _ours(settings: DQN) -> Callable[[int], None]:
    config = Config(algorithm=AlgorithmChoice("dqn"), dqn=settings)
    spec = Spec({"obs": Leaf((OBS,), "<f4")}, ActionSpec("discrete", sizes=(ACTIONS,)))
    algorithm = build(config, spec, seed=0)
    rng = np.random.default_rng(0)
    waiting = [_fragment(rng, number) for number in range(STORED // 64)]
    updates = _endless(algorithm, waiting)

    def run(count: int) -> None:
        for _ in range(count):
            next(updates)

    run(1)
    return run


def _endless(algorithm: Algorithm, waiting: list[Fragment]) -> Iterator[object]:
    """Learn from what is waiting first; from then on new experience only keeps up the ratio."""

    def arrivals() -> Iterator[list[Fragment]]:
        yield waiting
        while True:
            yield []

    return algorithm.learn(arrivals())


def _fragment(rng: np.random.Generator, number: int) -> Fragment:
    return Fragment(
        client="bench",
        epoch=1,
        episode=number,
        start=0,
        clock=64 * number,
        generation=1,
        version=1,
        obs={"obs": rng.normal(size=(65, OBS)).astype(np.float32)},
        action=rng.integers(ACTIONS, size=64).astype(np.uint8),
        reward=rng.normal(size=64).astype(np.float32),
        terminated=True,
        truncated=False,
    )


def _peer() -> Callable[[int], None]:
    try:
        from stable_baselines3 import DQN as Peer
        from stable_baselines3.common.logger import configure
    except ImportError:
        raise ConfigError('the peer is missing: pip install "soulsai[bench]"') from None
    peer = Peer(
        "MlpPolicy",
        gymnasium.make("LunarLander-v3"),
        policy_kwargs={"net_arch": list(WIDTH)},
        batch_size=BATCH,
        buffer_size=STORED,
        device="cpu",
    )
    peer.set_logger(configure(None, []))
    replay = peer.replay_buffer
    if replay is None:
        raise ConfigError("the peer has no replay buffer")
    rng = np.random.default_rng(0)
    for _ in range(STORED):
        obs, following = rng.normal(size=(2, 1, OBS)).astype(np.float32)
        action = rng.integers(ACTIONS, size=1)
        replay.add(obs, following, action, rng.normal(size=1), np.zeros(1), [{}])

    def run(count: int) -> None:
        peer.train(gradient_steps=count, batch_size=BATCH)

    run(1)
    return run
