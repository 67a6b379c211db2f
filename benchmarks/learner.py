"""The learners measured: updates per second against stable-baselines3, in one process."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import torch

from benchmarks.figure import Figure, at_least, beside
from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.build import build
from soulsai.algorithms.compile.form import Compilable
from soulsai.algorithms.compile.job import JOB, Job, made_in
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.errors import ConfigError
from soulsai.types import ActionSpec, Fragment, Leaf, Spec

DQN_LIMIT, SAC_LIMIT = 3.0, 1.5  # times the peer; SAC: 1.56 to 2.72 were seen
OBS, ACTIONS = 8, 4  # LunarLander's
AXES = 2  # of its continuous actions
STORED = 20_000  # rows in either replay
ROUNDS = 7  # they take turns, so that a noisy machine is noisy for all

CHOICE = ActionSpec("discrete", sizes=(ACTIONS,))
BOX = ActionSpec("box", shape=(AXES,), low=(-1.0,) * AXES, high=(1.0,) * AXES)
NET, BATCH = (128, 128), 64  # of DQN; SAC's are the defaults of both
PLAIN_DQN = DQNSettings(
    hidden=NET,
    batch_size=BATCH,
    quantiles=1,
    layer_norm=False,
    dueling=False,
    double=False,
    prioritized=False,
    normalize_obs=False,
    n_step=1,
)
PLAIN_SAC = SACSettings(quantiles=1, layer_norm=False, policy_delay=1, normalize_obs=False)

Run = Callable[[int], None]


def measure() -> Iterator[Figure]:
    """Yield our rates with the peer's features, compiled and eager, and with all of ours."""
    torch.set_num_threads(1)
    yield from _measure(
        "DQN", CHOICE, PLAIN_DQN, DQNSettings(hidden=NET, batch_size=BATCH), DQN_LIMIT, 300
    )
    yield from _measure("SAC", BOX, PLAIN_SAC, SACSettings(), SAC_LIMIT, 30)


def _measure(
    name: str,
    actions: ActionSpec,
    plain: DQNSettings | SACSettings,
    full: DQNSettings | SACSettings,
    limit: float,
    updates: int,
) -> Iterator[Figure]:
    net, batch = ("128-128", BATCH) if name == "DQN" else ("256-256", PLAIN_SAC.batch_size)
    runs = {
        "peer": _peer(name),
        "compiled": _ours(actions, plain, compiled=True),
        "eager": _ours(actions, plain, compiled=False),
        "full": _ours(actions, full, compiled=True),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(ROUNDS):
        for kind, run in runs.items():
            began = time.perf_counter()
            run(updates)
            rates[kind].append(updates / (time.perf_counter() - began))
    rate = {kind: float(np.median(some)) for kind, some in rates.items()}
    what = f"learner: {name} updates, {net}, batch {batch}, one thread"
    yield at_least(
        f"{what}, the peer's features, compiled", rate["compiled"], "1/s", limit * rate["peer"]
    )
    yield beside(f"{what}, the peer's features, eager", rate["eager"], "1/s", rate["peer"])
    yield beside(f"{what}, all our features, compiled", rate["full"], "1/s", rate["peer"])


def _ours(actions: ActionSpec, settings: DQNSettings | SACSettings, *, compiled: bool) -> Run:
    name = "dqn" if isinstance(settings, DQNSettings) else "sac"
    spec = Spec({"obs": Leaf((OBS,), "<f4")}, actions)
    algorithm = build(name, settings, spec, seed=0)
    if compiled:
        _compile(algorithm, Job(name, msgspec.to_builtins(settings), spec))
    rng = np.random.default_rng(0)
    waiting = [_fragment(rng, number, actions) for number in range(STORED // 64)]
    updates = _endless(algorithm, waiting)

    def run(count: int) -> None:
        for _ in range(count):
            next(updates)

    run(1)
    return run


def _compile(algorithm: Algorithm, job: Job) -> None:
    """Let the algorithm adopt packages as the training node does, made before we go on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / JOB).write_bytes(msgspec.json.encode(job))
        done = subprocess.run(
            [sys.executable, "-m", "soulsai.algorithms.compile.job", name],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not isinstance(algorithm, Compilable):
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ConfigError(f"updates could not be compiled: {last}")
        packages, _ = made_in(folder, algorithm)
        algorithm.adopt(packages)


def _endless(algorithm: Algorithm, waiting: list[Fragment]) -> Iterator[object]:
    """Learn from what is waiting first; from then on new experience only keeps up the ratio."""

    def arrivals() -> Iterator[list[Fragment]]:
        yield waiting
        while True:
            yield []

    return algorithm.learn(arrivals())


def _fragment(rng: np.random.Generator, number: int, actions: ActionSpec) -> Fragment:
    discrete = rng.integers(ACTIONS, size=64).astype(np.uint8)
    return Fragment(
        client="bench",
        epoch=1,
        episode=number,
        start=0,
        clock=64 * number,
        generation=1,
        version=1,
        obs={"obs": rng.normal(size=(65, OBS)).astype(np.float32)},
        action=discrete
        if actions.kind == "discrete"
        else rng.uniform(-1, 1, (64, AXES)).astype(np.float32),
        reward=rng.normal(size=64).astype(np.float32),
        terminated=True,
        truncated=False,
    )


def _peer(name: str) -> Run:
    try:
        import stable_baselines3
        from stable_baselines3.common.logger import configure
    except ImportError:
        raise ConfigError('the peer is missing: pip install "soulsai[bench]"') from None
    discrete = name == "DQN"
    kind: Any = vars(stable_baselines3)[name]
    own = {"policy_kwargs": {"net_arch": list(NET)}, "batch_size": BATCH} if discrete else {}
    env = gymnasium.make("LunarLander-v3", continuous=not discrete)
    peer = kind("MlpPolicy", env, buffer_size=STORED, device="cpu", **own)
    peer.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    for _ in range(STORED):
        obs, following = rng.normal(size=(2, 1, OBS)).astype(np.float32)
        action = rng.integers(ACTIONS, size=1) if discrete else rng.uniform(-1, 1, (1, AXES))
        peer.replay_buffer.add(obs, following, action, rng.normal(size=1), np.zeros(1), [{}])

    def run(count: int) -> None:
        peer.train(gradient_steps=count, batch_size=peer.batch_size)

    run(1)
    return run
