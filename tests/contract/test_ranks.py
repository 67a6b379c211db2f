"""Two ranks, each with half of every batch, learn what one learns with all of it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.contract.rank_cases import SHARED, SPOILT

HERE = Path(__file__).parent
RANKS = 2


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """What each case came to: alone, together, and on the rank that followed."""
    folder = tmp_path_factory.mktemp("ranks")
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": str(RANKS),
    }
    command = [sys.executable, str(HERE / "rank_cases.py"), str(folder)]
    ranks = [subprocess.Popen(command, env={**environ, "RANK": str(rank)}) for rank in range(RANKS)]
    try:
        assert [rank.wait(240) for rank in ranks] == [-signal.SIGKILL, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    found = {"noticed": float((folder / "noticed").read_text())}
    for number, name in enumerate(SHARED):
        found[name] = {
            kind: np.load(folder / f"{number}-{kind}.npz")
            for kind in ("alone", "together", "followed")
        }
    return found


@pytest.mark.parametrize("name", SHARED)
def test_one_rank_and_two_learn_the_same(learnt, name):
    alone, together = learnt[name]["alone"], learnt[name]["together"]
    assert set(alone) == set(together)
    for what in alone:
        near = 1e-3 if what == "priorities" else 1e-5  # a power of errors, which is steep at 0
        np.testing.assert_allclose(alone[what], together[what], 1e-3, near, err_msg=what)


@pytest.mark.parametrize("name", SHARED)
def test_all_ranks_hold_the_same_bit_for_bit(learnt, name):
    together, followed = learnt[name]["together"], learnt[name]["followed"]
    steps = [together[what] for what in followed if what.endswith("adam.steps")]
    assert all(count > 10 for count in steps)
    for what in followed:
        if "observation" not in what:  # what was seen since the last update, nobody was told
            np.testing.assert_array_equal(together[what], followed[what], err_msg=what)


def test_what_is_not_finite_on_one_rank_is_skipped_on_all(learnt):
    found = learnt[SPOILT]["together"]
    assert 0 < found["metric.skipped"][-1] < len(found["metric.skipped"])
    assert np.isfinite(found["held.weights"]).all()


def test_a_first_rank_that_is_killed_is_missed_at_once(learnt):
    assert learnt["noticed"] < 20.0
