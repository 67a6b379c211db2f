"""When a learner is shared among ranks, and when that is refused."""

import msgspec
import pytest

from soulsai import connect
from soulsai.algorithms.sharing import ALONE, Ranks, Shareable
from soulsai.config.schema import DQN, PPO, SAC, AlgorithmSettings, Config, TrainingSettings
from soulsai.errors import ConfigError
from soulsai.training_node.ranks import check


def never():
    return False


@pytest.mark.parametrize("size", ["", "1", "many"])
def test_without_others_there_is_no_group(monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    with connect.ranks(never) as group, connect.led(group, Config(), never) as led:
        assert (group, led) == (None, None)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("dqn", {"dqn": DQN(batch_size=63)}, "dqn.batch_size: 63"),
        ("ppo", {"ppo": PPO(minibatch=65)}, "ppo.minibatch: 65"),
        ("sac", {"sac": SAC(batch_size=255)}, "sac.batch_size: 255"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(name, settings, said):
    config = Config(
        algorithm=AlgorithmSettings(name), training=TrainingSettings(ranks=2), **settings
    )
    with pytest.raises(ConfigError, match=f"{said} cannot be divided among 2 ranks"):
        check(config, 2)
    with (
        pytest.raises(ConfigError, match="cannot be divided"),
        connect.led(None, config, never),
    ):
        pass
    check(msgspec.structs.replace(config, algorithm=AlgorithmSettings("of another package")), 2)


@pytest.mark.parametrize(("device", "fits"), [("cpu", True), ("cuda", True), ("cuda:1", False)])
def test_each_rank_needs_a_device_of_its_own(device, fits):
    config = Config(training=TrainingSettings(device=device))
    if fits:
        check(config, 2)
        return
    with pytest.raises(ConfigError, match=r"training.device: 'cuda:1' cannot be shared"):
        check(config, 2)


def test_what_is_no_algorithm_of_ours_is_not_shareable():
    alone: Ranks = ALONE
    assert not isinstance(alone, Shareable)
