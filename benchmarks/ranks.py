"""What a second rank brings on this machine: gradient steps per second, alone and shared; a table.

``python benchmarks/ranks.py``: one thread per rank, nothing compiled, experience of random numbers.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from soulsai.algorithms import build
from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.compile import Job
from soulsai.algorithms.group import END, joined
from soulsai.config import DQN, PPO, SAC, AlgorithmChoice, Config
from soulsai.training_node.ranks import Leading, follow
from soulsai.types import ActionSpec, Fragment, Leaf, Spec

RANKS, ROUNDS, SECONDS = 2, 5, 2.0  # seconds per round and kind
STEPS = 64  # per fragment
VECTOR = Leaf((8,), "<f4")
IMAGE = Leaf((64, 64, 3), "|u1")
FOUR = ActionSpec("discrete", sizes=(4,))
BOX = ActionSpec("box", shape=(2,), low=(-1.0, -1.0), high=(1.0, 1.0))
EAGER = {"learning_starts": 256, "capacity": 4096, "replay_ratio": 1e6, "pace": "free"}

CASES: dict[str, tuple[Config, Spec]] = {
    "dqn, 256-256, batch 64 (the defaults)": (
        Config(algorithm=AlgorithmChoice("dqn"), dqn=DQN(**EAGER)),
        Spec({"obs": VECTOR}, FOUR),
    ),
    "ppo, 64-64, minibatch 64 (the defaults)": (
        Config(algorithm=AlgorithmChoice("ppo"), ppo=PPO(target_kl=0.0, pace="free")),
        Spec({"obs": VECTOR}, FOUR),
    ),
    "sac, 256-256, batch 256 (the defaults)": (
        Config(algorithm=AlgorithmChoice("sac"), sac=SAC(**EAGER)),
        Spec({"obs": VECTOR}, BOX),
    ),
    "sac, 1024-1024, batch 1024": (
        Config(
            algorithm=AlgorithmChoice("sac"),
            sac=SAC(hidden=(1024, 1024), batch_size=1024, **EAGER),
        ),
        Spec({"obs": VECTOR}, BOX),
    ),
    "dqn, IMPALA's network, images 64x64x3, batch 64": (
        Config(algorithm=AlgorithmChoice("dqn"), dqn=DQN(vision="impala", **EAGER)),
        Spec({"eye": IMAGE}, FOUR),
    ),
}


def main() -> None:
    if "RANK" in os.environ:
        torch.set_num_threads(1)
        with joined(lambda: False) as group:
            for name, case in CASES.items():
                if group.rank:
                    follow(group)
                    continue
                shared = Leading(build(*case, seed=0), group, Job(*case))
                rates = [
                    (rate(alone), rate(together))
                    for alone, together in [
                        (steps(build(*case, seed=0), *case), steps(shared, *case))
                    ]
                    for _ in range(ROUNDS)
                ]
                group.tell(END, {}, {})
                ones, twos = zip(*rates, strict=True)
                one, two = statistics.median(ones), statistics.median(twos)
                print(f"| {name} | {one:.1f} | {two:.1f} | {two / one:.2f} |", flush=True)
        return
    print("| learner | 1 rank, gradient steps/s | 2 ranks | ratio |\n|---|---|---|---|", flush=True)
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    environ = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(RANKS),
    }
    ranks = [
        subprocess.Popen([sys.executable, __file__], env={**environ, "RANK": str(rank)})
        for rank in range(RANKS)
    ]
    sys.exit(max(rank.wait() for rank in ranks))


def steps(algorithm: Algorithm, config: Config, spec: Spec) -> Callable[[], int]:
    """Return what does one update, and says how many gradient steps that were."""
    updates = algorithm.learn(arrivals(config, spec, algorithm.policy.extras))
    per_update = 1
    if config.algorithm.name == "ppo":
        next(updates)  # its statistics
        per_update = 4 * 2048 // config.ppo.minibatch

    def update() -> int:
        next(updates)
        return per_update

    for _ in range(2):
        update()
    return update


def rate(update: Callable[[], int]) -> float:
    """Return gradient steps per second."""
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < SECONDS:
        done += update()
    return done / took


def arrivals(config: Config, spec: Spec, extras: dict[str, Leaf]) -> Iterator[list[Fragment]]:
    """Give a batch of PPO's again and again, as of the newest version; replay is filled once."""
    rng = np.random.default_rng(0)
    count = 2048 // STEPS
    for version in range(10**9):
        if version == 0 or config.algorithm.name == "ppo":
            yield [_fragment(rng, version * count + i, version, spec, extras) for i in range(count)]
        yield []


def _fragment(
    rng: np.random.Generator, episode: int, version: int, spec: Spec, extras: dict[str, Leaf]
) -> Fragment:
    obs = {
        name: rng.integers(256, size=(STEPS + 1, *leaf.shape)).astype(leaf.dtype)
        if leaf.dtype == "|u1"
        else rng.normal(size=(STEPS + 1, *leaf.shape)).astype(leaf.dtype)
        for name, leaf in spec.obs.items()
    }
    discrete = spec.action.kind == "discrete"
    return Fragment(
        client="bench",
        epoch=1,
        episode=episode,
        start=0,
        clock=STEPS * episode,
        generation=1,
        version=version,
        obs=obs,
        action=rng.integers(4, size=STEPS).astype("u1")
        if discrete
        else rng.uniform(-1, 1, (STEPS, 2)).astype("f4"),
        reward=rng.normal(size=STEPS).astype("f4"),
        terminated=True,
        truncated=False,
        extras={name: np.full(STEPS, -1.386, "f4") for name in extras},
    )


if __name__ == "__main__":
    main()
