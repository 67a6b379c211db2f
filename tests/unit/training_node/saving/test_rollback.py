"""Weights that must not be published are not, and learning goes back to the last good version."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soulsai.algorithms.base import PATIENCE, Skips
from soulsai.evaluations.record import kept_policy
from soulsai.training_node import publisher
from soulsai.training_node.publisher import find_fault
from soulsai.training_node.saving import atomic_folders
from soulsai.training_node.saving.rollback import PATIENCE as MOST_RETURNS
from soulsai.training_node.saving.rollback import Diverged
from soulsai.types import ReturnTo, SaveBest
from tests.memory_server import MemoryServer
from tests.unit.training_node.node_cases import Counting, Node, Player, config, program, wait_for

SOUND = {"linear.weight": np.ones((3, 2), "f4"), "linear.bias": np.zeros(3, "f4")}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(publisher, "RETRY_SECONDS", 0.05)


def poison(algorithm, *, update, once=True):
    """Spoil the weights in one update."""
    left = [1 if once else 10**6]

    def spoil():
        if algorithm.updates == update and left[0]:
            left[0] -= 1
            with torch.no_grad():
                algorithm.policy.linear.bias[1] = float("nan")

    algorithm.before_update = spoil


@given(
    st.sampled_from(list(SOUND)),
    st.integers(0, 5),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_one_number_that_is_not_finite_is_enough(name, place, value):
    arrays = {key: array.copy() for key, array in SOUND.items()}
    assert find_fault(arrays, program()) == ""
    arrays[name].flat[place % arrays[name].size] = value
    assert find_fault(arrays, program()) == f"weight {name!r} is not finite"


def test_other_names_shapes_and_dtypes_are_faults():
    assert "not those of the program" in find_fault(
        {"linear.bias": SOUND["linear.bias"]}, program()
    )
    assert "(4,)" in find_fault({**SOUND, "linear.bias": np.zeros(4, "f4")}, program())
    assert "float64" in find_fault({**SOUND, "linear.bias": np.zeros(3)}, program())


def test_after_bad_updates_learning_goes_back_to_the_start_and_learns_all_again(
    monkeypatch, tmp_path
):
    server, algorithm = MemoryServer(), Counting()
    with Node(monkeypatch, server, config(tmp_path), algorithm=algorithm) as node:
        player = Player(server)
        poison(algorithm, update=2)
        for _ in range(4):
            player.play(4)
        node.told(lambda status: status.withheld and "is not finite" in status.notice)
        status = node.told(lambda status: status.rollbacks and not status.notice)
        assert (status.rollbacks, status.withheld) == (1, 3)
        node.told(lambda status: status.updates == 4)
        newest = wait_for(lambda: player.pointer() if player.pointer().version > 1 else None)
        weights = player.wire.weights(newest, player.wire.program(player.spec))
        assert all(np.isfinite(array).all() for array in weights.arrays.values())
    assert algorithm.names == list(range(16))
    assert node.status.updates == 4


def test_it_goes_back_to_the_last_checkpoint_and_what_came_since_is_learnt_once(
    monkeypatch, tmp_path
):
    server, algorithm = MemoryServer(), Counting()
    with Node(monkeypatch, server, config(tmp_path, every=3), algorithm=algorithm) as node:
        player = Player(server)
        for _ in range(3):
            player.play(4)
        node.told(lambda status: status.checkpoint == "000001")
        version = player.pointer().version
        poison(algorithm, update=4)
        for _ in range(5):
            player.play(4, ended=True)
        status = node.told(lambda status: status.rollbacks == 1 and status.updates == 8)
        assert (status.env_steps, status.episodes) == (32, 5)
        assert (status.lost, status.duplicates, status.rejected) == (0, 0, {})
        node.told(lambda status: not status.notice and status.checkpoint >= "000002")
        assert player.pointer().version > version
    assert algorithm.names == list(range(32))
    (folder,) = tmp_path.iterdir()
    for path in atomic_folders.numbered(folder / "checkpoints"):
        assert atomic_folders.damage(path) is None


def test_a_learner_that_gives_up_goes_back_at_once(monkeypatch, tmp_path):
    server, algorithm = MemoryServer(), Counting()
    skips, left = Skips(algorithm.policy), [PATIENCE]

    def skip():
        if algorithm.updates == 3:
            while left[0]:
                left[0] -= 1
                skips.count(skipped=True)
        else:
            skips.restore(0)

    algorithm.before_update = skip
    with Node(monkeypatch, server, config(tmp_path), algorithm=algorithm) as node:
        player = Player(server)
        for _ in range(5):
            player.play(4)
        node.told(lambda status: status.rollbacks == 1 and status.updates == 5)
    assert algorithm.names == list(range(20))


def test_only_updates_in_a_row_are_too_many():
    policy = Counting().policy
    skips = Skips(policy)
    for number in range(3 * PATIENCE):
        skips.count(skipped=number % PATIENCE > 0)
    assert (policy.fault, skips.total) == ("", 3 * (PATIENCE - 1))
    skips.count(skipped=True)
    assert policy.fault == f"{PATIENCE} updates in a row were not finite"
    skips.restore(7)
    assert (policy.fault, skips.total) == ("", 7)


def test_weights_that_are_spoilt_again_and_again_end_the_run_with_a_reason(monkeypatch, tmp_path):
    server, algorithm = MemoryServer(), Counting()
    poison(algorithm, update=0, once=False)
    with Node(monkeypatch, server, config(tmp_path), algorithm=algorithm) as node:
        Player(server).play(4)
        with pytest.raises(Diverged, match="lower the learning rate"):
            node.join()
        node.error = None
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in atomic_folders.numbered(folder / "checkpoints")] == ["000000"]


def test_on_request_it_returns_to_an_earlier_checkpoint_that_was_kept_for_it(monkeypatch, tmp_path):
    server, algorithm = MemoryServer(), Counting()
    with Node(monkeypatch, server, config(tmp_path, every=1, keep=1), algorithm=algorithm) as node:
        player = Player(server)
        player.play(4)
        node.told(lambda status: status.checkpoint == "000001")
        (folder,) = tmp_path.iterdir()
        kept = kept_policy(folder, "000001")
        kept.parent.mkdir(parents=True)
        kept.write_bytes((folder / "checkpoints" / "000001" / "policy.onnx").read_bytes())
        command = SaveBest(1, 77, 5.0, "000001")  # a version that nobody keeps any more
        assert node.operator.command(command, timeout=5.0).done
        assert (folder / "best_model" / "policy.onnx").read_bytes() == kept.read_bytes()
        for number in range(2, 5):
            player.play(4)
            node.told(lambda status, number=number: status.checkpoint == f"{number:06d}")
        names = [path.name for path in atomic_folders.numbered(folder / "checkpoints")]
        assert names == ["000001", "000004"], "one more than checkpoint.keep"
        answer = node.operator.command(ReturnTo("000009", "worse"), timeout=5.0)
        assert (answer.done, "none of that name" in answer.message) == (False, True)
        answer = node.operator.command(ReturnTo("000001", "worse"), timeout=5.0)
        assert (answer.done, answer.message) == (True, "goes back to checkpoint 000001")
        node.told(lambda status: status.rollbacks == 1 and status.updates == 1)
        player.play(4)
        node.told(lambda status: status.updates == 2)
    assert algorithm.names == [0, 1, 2, 3, 16, 17, 18, 19], "a newer checkpoint covers the others"


def test_returns_that_do_not_help_are_refused(monkeypatch, tmp_path):
    server, algorithm = MemoryServer(), Counting()
    with Node(monkeypatch, server, config(tmp_path), algorithm=algorithm) as node:
        Player(server).play(4)
        node.told(lambda status: status.checkpoint == "000000")
        for number in range(1, MOST_RETURNS + 1):
            assert node.operator.command(ReturnTo("000000", "worse"), timeout=5.0).done
            node.told(lambda status, number=number: status.rollbacks == number)
        answer = node.operator.command(ReturnTo("000000", "worse"), timeout=5.0)
        assert not answer.done
        assert answer.message == "3 returns to 000000 have not helped; lower the learning rate"
