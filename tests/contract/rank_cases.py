"""What one of several ranks does in ``test_ranks``: every case is learnt alone, and together; then
the first rank is killed.

``python rank_cases.py FOLDER``, with the variables that ``torchrun`` sets.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import torch

from soulsai import algorithms
from soulsai.algorithms import ppo
from soulsai.algorithms.compile.job import Job
from soulsai.algorithms.group import END, Group, RankLost, joined
from soulsai.training_node.ranks import Leading, follow
from tests.contract.algorithm_cases import CASES, Case, make, stream

STEPS, SEED = 600, 1
SPOILT = "dqn, a reward that is not finite"


def certain(case: Case) -> Case:
    """A case without dropout, which each rank draws for itself."""
    sac = msgspec.structs.replace(case.config.sac, dropout=0.0)
    return Case(msgspec.structs.replace(case.config, sac=sac), case.spec)


SHARED = {name: certain(case) for name, case in CASES.items()} | {SPOILT: CASES["dqn"]}


def results(name: str, group: Group | None) -> dict[str, np.ndarray]:
    """Everything that was learnt from a stream, and the metrics of each update."""
    case = SHARED[name]
    algorithm = make(case, SEED)
    driven = algorithm
    if group is not None:
        driven = Leading(algorithm, group, Job(case.config, case.spec))
    groups = stream(case, STEPS)
    if name == SPOILT:
        groups[48][0].reward[2] = np.inf
    metrics = list(driven.learn(iter(groups)))
    if group is not None:
        group.tell(END, {}, {})
    found = weights(algorithm)
    for key in metrics[-1]:
        found[f"metric.{key}"] = np.array([said.get(key, 0.0) for said in metrics])
    if algorithm.parts.get("replay") and case.config.algorithm.name != "ppo":
        found["priorities"] = algorithm.parts["replay"].priorities.copy()
    return found


def weights(algorithm) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in algorithm.held().items()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ppo.TURN = 1e6  # however slow this machine is
    built = []
    build = algorithms.build
    with joined(lambda: False) as group:
        if group.rank:
            follow(group)  # of a first rank that could not begin
        else:
            group.tell(END, {}, {})
        for number, name in enumerate(SHARED):
            if group.rank:
                algorithms.build = lambda *a, **k: built.append(build(*a, **k)) or built[-1]
                follow(group)
                np.savez(folder / f"{number}-followed.npz", **weights(built.pop()))
                continue
            np.savez(folder / f"{number}-alone.npz", **results(name, None))
            np.savez(folder / f"{number}-together.npz", **results(name, group))
        if group.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        with suppress(RankLost):
            follow(group)
            raise AssertionError("nobody missed the first rank")
        (folder / "noticed").write_text(str(time.monotonic() - began))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
