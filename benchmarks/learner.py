"""The learners measured: updates per second of CPU time, against other packages, in turns."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from benchmarks.figure import Figure, at_least, beside
from benchmarks.turns import Run, peer, rates, timed
from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.build import build
from soulsai.algorithms.compile.form import Compilable
from soulsai.algorithms.compile.job import JOB, Job, made_in
from soulsai.algorithms.dqn.settings import DQNSettings
from soulsai.algorithms.sac.settings import SACSettings
from soulsai.errors import ConfigError
from soulsai.training_node import learning_process
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
    updates_per_call=64,
)
PLAIN_SAC = SACSettings(quantiles=1, layer_norm=False, policy_delay=1, normalize_obs=False)


def measure(peers: str) -> Iterator[Figure]:
    """Yield our rates with the peers' features, compiled and eager, and with all of ours.

    Args:
        peers: The Python in which Stable-Baselines3 is installed, and SBX unless it is this one.
    """
    dqn, sac = DQNSettings(hidden=NET, batch_size=BATCH), SACSettings()
    with learning_process.prepared(threads=1):
        yield from _measure("DQN", CHOICE, PLAIN_DQN, dqn, DQN_LIMIT, 320, peers)
        yield from _measure("SAC", BOX, PLAIN_SAC, sac, SAC_LIMIT, 32, peers)


def _measure(
    name: str,
    actions: ActionSpec,
    plain: DQNSettings | SACSettings,
    full: DQNSettings | SACSettings,
    limit: float,
    updates: int,
    peers: str,
) -> Iterator[Figure]:
    net, batch = ("128-128", BATCH) if name == "DQN" else ("256-256", PLAIN_SAC.batch_size)
    usual = replace(plain, updates_per_call=type(plain)().updates_per_call)
    runs = {
        "compiled": timed(_ours(actions, plain, compiled=True)),
        "eager": timed(_ours(actions, plain, compiled=False)),
        "full": timed(_ours(actions, full, compiled=True)),
    }
    if usual != plain:
        runs["usual"] = timed(_ours(actions, usual, compiled=True))
    learning_process.freeze()
    beside_us = ("sb3",) if peers == sys.executable else ("sb3", "sbx")
    with ExitStack() as others:
        for one in beside_us:
            runs[one] = others.enter_context(peer(f"{one}-{name.lower()}", peers))
        rate = rates(runs, updates, ROUNDS)
    what = f"learner: {name} updates, {net}, batch {batch}, one thread"
    compiled = rate["compiled"]
    yield at_least(f"{what}, the peer's features, compiled", compiled, "1/s", limit * rate["sb3"])
    if "sbx" in rate:
        yield at_least(f"{what}, SBX's features, compiled", compiled, "1/s", rate["sbx"])
    if "sbx" in rate and "usual" in rate:
        calls = f"SBX's features, compiled, {usual.updates_per_call} per call"
        yield at_least(f"{what}, {calls}", rate["usual"], "1/s", rate["sbx"])
    yield beside(f"{what}, the peer's features, eager", rate["eager"], "1/s", rate["sb3"])
    yield beside(f"{what}, all our features, compiled", rate["full"], "1/s", rate["sb3"])


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
