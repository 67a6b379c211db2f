"""Environments per client: as many as pay, by a measurement, and the user's own number first."""

from datetime import UTC, datetime

import msgspec
import pytest

from soulsai import runs
from soulsai.client import probe
from soulsai.client.probe import open_environment
from soulsai.client.side_by_side import (
    CHEAP_SECONDS,
    MOST_TOGETHER,
    chosen,
    probed,
    step_seconds,
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


def count_of(settings, saved=0):
    return probed(settings, saved)[0].environment.count


@pytest.mark.parametrize(
    ("seconds", "clients", "count"),
    [(1e-6, 1, 16), (1e-6, 2, 8), (1e-6, 5, 3), (1e-6, 40, 1), (1e-6, 0, 16),
     (CHEAP_SECONDS, 2, 8), (1.1 * CHEAP_SECONDS, 2, 1), (0.1, 1, 1)],
)  # fmt: skip
def test_cheap_environments_are_played_together(seconds, clients, count):
    assert chosen(seconds, clients) == count
    assert clients * count <= MOST_TOGETHER or count == 1


def test_a_learner_that_waits_for_env_steps_gets_several_environments_in_each_client():
    assert count_of(config()) == 8
    assert count_of(config(DQN)) == 1


def test_the_environment_is_opened_once_for_its_spec_and_its_trial(monkeypatch):
    opened = []
    real = probe.open_environment
    monkeypatch.setattr(
        probe, "open_environment", lambda *settings: opened.append(real(*settings)) or opened[-1]
    )
    settings, spec = probed(config())
    assert len(opened) == 1
    assert (settings.environment.count, spec) == (8, opened[0].spec)


def test_the_users_number_and_environments_with_a_place_of_their_own_are_left_alone():
    assert count_of(config(count=3)) == 3
    assert count_of(config(count=1)) == 1
    for alone in (
        {"realtime": True},
        {"isolate": True},
        {"vector": True},
        {"kwargs": {"sutton_barto_reward": "{index}"}},
    ):
        assert count_of(config(**alone)) == 1


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
    assert count_of(config(), runs.count(tmp_path, folder.run)) == 5
    assert runs.count(tmp_path, "") == runs.count(tmp_path, "none") == 0
