"""A run begins with the networks and the normaliser of another, and with nothing else of it."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from soulsai.algorithms.normalize import ASSUMED, RunningStatistics
from soulsai.config.schema import StartSettings
from soulsai.errors import CheckpointError, ConfigError
from soulsai.training_node import onnx_export, warm_start
from soulsai.training_node.saving import atomic_folders, snapshot
from soulsai.training_node.saving.snapshot import Progress
from soulsai.types import EnvironmentOffer, PolicyCard
from tests.contract.algorithm_cases import CASES, Case, make, stream

NAMES = ("dqn", "sac", "ppo, box", "ppo, recurrent")


def trained(case):
    algorithm = make(case, 1)
    list(algorithm.learn(iter(stream(case, 600))))
    return algorithm


def saved(algorithm, case, folder: Path) -> Path:
    """Write a checkpoint with a whole policy, as the training node does."""
    program = onnx_export.program(algorithm.policy, case.spec)
    card = PolicyCard(
        run="run",
        generation=1,
        version=1,
        env_steps=600,
        algorithm=case.config.algorithm.name,
        environment=EnvironmentOffer("x"),
        spec=case.spec,
        head=program.head,
        inputs=program.inputs,
        outputs=program.outputs,
        memory=program.memory,
        format=1,
    )
    policy = onnx_export.complete(program, onnx_export.weights(algorithm.policy, program), card)
    files = snapshot.files(Progress("run"), algorithm.parts, policy, replay=True)
    folder.mkdir()
    return atomic_folders.append(folder, files, 3, 1)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("name", NAMES)
def test_networks_and_normaliser_of_a_checkpoint_are_taken_and_nothing_else(name, tmp_path):
    case = CASES[name]
    before, fresh = trained(case), make(case, 2)
    untouched = make(case, 2)
    folder = saved(before, case, tmp_path / "checkpoints")
    warm_start.start_from(StartSettings(str(folder)), tmp_path, fresh)
    networks = {n for n, part in before.parts.items() if isinstance(part, torch.nn.Module)}
    assert "policy" in networks
    for part in networks:
        assert equal(fresh.parts[part].state_dict(), before.parts[part].state_dict()), part
    ours, theirs = (each.parts["normalizer"].statistics for each in (fresh, before))
    assert ours.count == theirs.count > 0
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    for part in fresh.parts.keys() - networks - {"normalizer"}:
        one, other = (str(each.parts[part].state_dict()) for each in (fresh, untouched))
        assert one == other, part
    list(fresh.learn(iter(stream(case, 300))))


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_file_gives_what_clients_act_with(name, tmp_path):
    case = CASES[name]
    before, fresh = trained(case), make(case, 2)
    folder = saved(before, case, tmp_path / "checkpoints")
    warm_start.start_from(StartSettings(str(folder / "policy.onnx")), tmp_path, fresh)
    acting = before.policy.twin().state_dict()
    assert equal(fresh.policy.state_dict(), acting)
    assert equal(fresh.policy.twin().state_dict(), acting)
    statistics = fresh.parts["normalizer"].statistics
    assert statistics.count == ASSUMED
    mean, inverse = acting["observation.mean"], acting["observation.inv_std"]
    assert statistics.mean == pytest.approx(mean.numpy(), rel=1e-6)
    assert statistics.inv_std == pytest.approx(inverse.numpy(), rel=1e-5)


def test_assumed_statistics_hardly_move_by_a_few_rows():
    statistics = RunningStatistics(2)
    statistics.assume(np.array([3.0, -1.0]), np.array([0.5, 2.0]))
    statistics.update(np.zeros((64, 2)))
    assert statistics.mean == pytest.approx([3.0, -1.0], rel=1e-2)
    assert statistics.inv_std == pytest.approx([0.5, 2.0], rel=1e-2)


def wider(case: Case) -> Case:
    learner = msgspec.structs.replace(case.config.dqn, hidden=(24,))
    return Case(msgspec.structs.replace(case.config, dqn=learner), case.spec)


def test_what_does_not_fit_is_named_and_the_rest_taken_if_that_is_asked_for(tmp_path):
    case = CASES["dqn"]
    folder = saved(trained(case), case, tmp_path / "checkpoints")
    fresh = make(wider(case), 2)
    first = {name: value.clone() for name, value in fresh.policy.state_dict().items()}
    with pytest.raises(ConfigError, match=r"policy\.encoder\S+ has shape .* here.*start\.partial"):
        warm_start.start_from(StartSettings(str(folder)), tmp_path, make(wider(case), 2))
    warm_start.start_from(StartSettings(str(folder), partial=True), tmp_path, fresh)
    after, theirs = fresh.policy.state_dict(), make(case, 1).policy.state_dict()
    fitting = [name for name in theirs if theirs[name].shape == first[name].shape]
    assert fitting
    assert len(fitting) < len(first)
    assert all(
        equal({name: after[name]}, {name: first[name]}) for name in first.keys() - {*fitting}
    )


def test_a_policy_of_nothing_alike_is_refused_even_in_part(tmp_path):
    case = CASES["dqn, image"]
    folder = saved(make(case, 1), case, tmp_path / "checkpoints")
    settings = StartSettings(str(folder / "policy.onnx"), partial=True)
    other = make(CASES["ppo, recurrent"], 2)
    with pytest.raises(ConfigError, match="nothing of it fits this run"):
        warm_start.start_from(settings, tmp_path, other)


def test_a_file_that_is_no_policy_and_a_missing_run_are_one_line(tmp_path):
    (tmp_path / "policy.onnx").write_bytes(b"no policy at all")
    algorithm = make(CASES["dqn"])
    for place, words in ((tmp_path / "policy.onnx", "is not a policy"), ("nothing", "no run")):
        with pytest.raises(CheckpointError, match=words) as raised:
            warm_start.start_from(StartSettings(str(place)), tmp_path, algorithm)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_no_action_is_random_at_the_start(name):
    algorithm = make(CASES[name])
    assert algorithm.policy.exploration == {"random": 1.0}
    warm_start.warm(StartSettings("x"), algorithm)
    assert algorithm.policy.exploration == {"random": 0.0}
    list(algorithm.learn(iter(stream(CASES[name], 60))))
    assert algorithm.policy.exploration == {"random": 0.0}
