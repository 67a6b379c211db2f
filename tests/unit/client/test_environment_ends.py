"""Ends that are terminated and truncated, ids that were replaced, and steps that come late."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.installed_versions import versions_behind
from soulsai.client.late_steps import LATE, LateSteps
from soulsai.errors import EnvironmentFault
from soulsai.types import zeros
from tests.unit.client.player_cases import Diary, stage


class Doom(gymnasium.Env):
    """Reports the end of its time as terminated and as truncated, as the released ViZDoom does."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.left = self.length
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        over = self.left == 0
        return np.zeros(1, np.float32), 0.0, over, over, {}


def last_step(env):
    played = AdaptedEnvironment(env, "it", mask_key="mask", masked=False)
    rows = {name: zeros(leaf) for name, leaf in played.spec.obs.items()}
    for _ in range(2):  # episodes, of which the first may warn
        played.reset(rows)
        result = played.step(0, rows)
        while not (result.terminated or result.truncated):
            result = played.step(0, rows)
    return result


@pytest.mark.parametrize("skips", [False, True])
def test_an_end_at_the_limit_of_a_wrapper_is_truncated(skips, caplog):
    env = gymnasium.wrappers.TimeLimit(Doom(6), 6)
    if skips:  # the wrapper counts the steps inside
        env = gymnasium.wrappers.RecordEpisodeStatistics(env)
    result = last_step(env)
    assert (result.terminated, result.truncated) == (False, True)
    assert caplog.messages == []


@pytest.mark.parametrize("limit", [None, 7])
def test_an_end_of_both_kinds_before_any_limit_is_terminated_and_said_once(limit, caplog):
    env = Doom(6)
    result = last_step(gymnasium.wrappers.TimeLimit(env, limit) if limit else env)
    assert result.terminated
    assert [line for line in caplog.messages if "environment.max_episode_steps" in line] == [
        "env=it: a step ends the episode as terminated and as truncated, and counts as terminated; "
        "if that is its time limit, set environment.max_episode_steps to it"
    ]


def test_a_pole_that_falls_before_the_limit_is_terminated():
    result = last_step(gymnasium.make("CartPole-v1"))
    assert (result.terminated, result.truncated) == (True, False)


@pytest.mark.parametrize(
    ("id", "newest"),
    [
        ("CliffWalking-v0", "CliffWalking-v1"),
        ("Taxi-v3", "Taxi-v4"),
        ("CartPole-v7", "CartPole-v1"),
        ("gymnasium.envs:FrozenLake-v0", "gymnasium.envs:FrozenLake-v1"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_outdated_id_names_the_one_that_replaces_it(id, newest):
    with pytest.raises(EnvironmentFault) as told:
        make(id, {})
    assert f"environment.id: {newest}" in str(told.value)
    assert "registration.py" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Install two packages: one that fails in ``make``, and one that it requires."""
    folder = tmp_path / "site-packages"
    for name, version, requires in (("robotgym", "1.4.2", "physics_lib"), ("physics_lib", "4", "")):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("")
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        needs = f"Requires-Dist: {requires.replace('_', '-')} >=3\n" if requires else ""
        (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n{needs}")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
    (folder / "robotgym/__init__.py").write_text(
        "import physics_lib\ndef make():\n    assert physics_lib is None, 'no joint'\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in ("robotgym", "physics_lib"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("packages")
def test_an_error_of_a_package_comes_with_the_versions_that_are_installed():
    with pytest.raises(EnvironmentFault) as told:
        make("robotgym:make", {})
    line = str(told.value)
    assert "cannot be made: AssertionError: no joint at " in line
    assert line.endswith("(installed: robotgym 1.4.2, physics_lib 4)")


def test_an_error_of_no_package_names_none():
    with pytest.raises(ValueError, match="ours") as told:
        raise ValueError("ours")
    assert versions_behind(told.value) == ""


@given(
    period=st.floats(0.001, 1.0),
    noise=st.lists(st.floats(0.9, 1.1), min_size=60, max_size=200),
    late=st.sets(st.integers(40, 59), max_size=5),
)
def test_a_step_is_late_if_its_interval_is_much_longer_than_usual(period, noise, late):
    steps, now, found = LateSteps(), 0.0, set()
    steps.is_late(now)
    for number, factor in enumerate(noise):
        now += period * (2.0 * LATE if number in late else factor)
        if steps.is_late(now):
            found.add(number)
    assert found == late


def test_a_step_after_a_reset_is_not_late():
    steps, now = LateSteps(), 0.0
    for _ in range(100):
        now += 0.05
        steps.is_late(now)
    steps.begin()
    assert not steps.is_late(now + 60.0)
    assert not steps.is_late(now + 60.05)
    assert steps.is_late(now + 60.25)


@pytest.mark.parametrize("realtime", [True, False])
def test_late_steps_of_a_run_in_real_time_are_counted(realtime):
    now = [0.0]

    class Stalls(Diary):
        def step(self, action):
            now[0] += 0.5 if self.t in (5, 7) and self.episode == 9 else 0.05
            return super().step(action)

    _, _, go, progress = stage([Stalls(length=10)], clock=lambda: now[0], realtime=realtime)
    go(100)
    assert progress.faults == ({"late": 2} if realtime else {})
