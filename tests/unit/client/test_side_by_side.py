"""Environments per client: as many as pay, by a measurement, and the user's own number first."""

from datetime import UTC, datetime

import msgspec
import pytest

from soulsai import runs
from soulsai.client.probe import open_environment
from soulsai.client.side_by_side import (
    CHEAP_SECONDS,
    MOST_TOGETHER,
    chosen,
    step_seconds,
    with_count,
)
from soulsai.config.schema import AlgorithmSettings, Config, EnvironmentSettings, RunSettings
from soulsai.training_node.saving import run_folder

PPO, DQN = AlgorithmSettings("ppo"), AlgorithmSettings("dqn")


def config(algorithm=PPO, clients=2, **environment):
    return Config(
        run=RunSettings(clients=clients),
        algorithm=algorithm,
        environment=EnvironmentSettings(id="CartPole-v1", **environment),
    )


@pytest.mark.parametrize(
    ("seconds", "clients", "count"),
    [(1e-6, 1, 16), (1e-6, 2, 8), (1e-6, 5, 3), (1e-6, 40, 1), (1e-6, 0, 16),
     (CHEAP_SECONDS, 2, 8), (1.1 * CHEAP_SECONDS, 2, 1), (0.1, 1, 1)],
)  # fmt: skip
def test_cheap_environments_are_played_together(seconds, clients, count):
    assert chosen(seconds, clients) == count
    assert clients * count <= MOST_TOGETHER or count == 1


def test_a_learner_that_waits_for_env_steps_gets_several_environments_in_each_client():
    assert with_count(config()).environment.count == 8
    assert with_count(config(DQN)).environment.count == 1


def test_the_users_number_and_environments_with_a_place_of_their_own_are_left_alone():
    assert with_count(config(count=3)).environment.count == 3
    assert with_count(config(count=1)).environment.count == 1
    for alone in (
        {"realtime": True},
        {"isolate": True},
        {"vector": True},
        {"kwargs": {"p": "{index}"}},
    ):
        assert with_count(config(**alone)).environment.count == 1


def test_the_price_of_a_step_is_that_of_most_steps_and_a_slow_trial_is_short():
    environment = open_environment(config().environment, config().client)
    times = iter(range(10_000))
    assert step_seconds(environment, lambda: 1e-6 * next(times)) == pytest.approx(1e-6)
    times = iter(range(10_000))
    assert step_seconds(environment, lambda: 0.03 * next(times)) == pytest.approx(0.03)
    assert next(times) < 20
    environment.close()


def test_a_resumed_run_keeps_its_number(tmp_path):
    begun = msgspec.structs.replace(config(count=5), run=RunSettings(saves=str(tmp_path)))
    folder = run_folder.create(begun, datetime(2026, 1, 1, tzinfo=UTC))
    assert with_count(config(), runs.count(tmp_path, folder.run)).environment.count == 5
    assert runs.count(tmp_path, "") == runs.count(tmp_path, "none") == 0
