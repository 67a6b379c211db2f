"""``check-env`` of environments that end their process, or hang: the process and its messages."""

import subprocess
import sys

import pytest

from soulsai.client.environment_report import check
from soulsai.client.environment_trial import check_apart
from soulsai.config import Config
from soulsai.config.schema import EnvironmentSettings, WatchdogSettings
from soulsai.errors import ConfigError, EnvironmentFault

GAME = """
import gymnasium, numpy, os, time
from gymnasium import spaces

class Game(gymnasium.Env):
    observation_space = spaces.Box(0, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, where=""):
        self.where, self.resets, self.steps = where, 0, 0
        self.maybe("start")

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        self.maybe(f"reset {self.resets}")
        return numpy.zeros(2, "f4"), {}

    def step(self, action):
        self.steps += 1
        self.maybe(f"step {self.steps}")
        print("the game talks")
        return numpy.zeros(2, "f4"), 1.0, False, self.steps % 50 == 0, {}

    def maybe(self, now):
        if self.where == f"exit {now}":
            os._exit(7)
        if self.where == f"hang {now}":
            time.sleep(1000)  # here
"""


def config(folder, where="", **settings):
    (folder / "game.py").write_text(GAME)
    environment = EnvironmentSettings(
        id=f"{folder / 'game.py'}:Game", kwargs={"where": where}, **settings
    )
    limits = WatchdogSettings(start_seconds=60.0, reset_seconds=0.5, step_seconds=0.4)
    return Config(environment=environment, watchdog=limits)


def test_the_report_is_that_of_a_trial_here(tmp_path, capfd):
    own = config(tmp_path)
    apart, here = check_apart(own), check(own)
    assert apart.spec == here.spec
    assert (apart.steps, apart.episodes, apart.rewards) == (200, 4, (1.0, 1.0))
    assert apart.warnings == here.warnings
    said = capfd.readouterr()
    assert "the game talks" in said.err


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("exit start", "its process ended with exit code 7 during start$"),
        ("exit reset 2", "exit code 7 during reset; in training, environment.isolate: true would"),
        ("exit step 31", "exit code 7 during step 31; in training, environment.isolate: true "),
        ("hang reset 2", r"reset has not ended within 0\.5 s at .*game\.py:28; in training"),
        ("hang step 3", r"step 3 has not ended within 0\.4 s at .*game\.py:28; in training"),
    ],
)
def test_the_call_that_ended_it_is_named(tmp_path, where, said):
    with pytest.raises(EnvironmentFault, match=said) as caught:
        check_apart(config(tmp_path, where))
    assert str(caught.value).startswith(f"{tmp_path / 'game.py'}:Game: ")


def test_a_mistake_is_told_as_without_a_process(tmp_path):
    with pytest.raises(EnvironmentFault, match="neither registers nor defines 'Gone'"):
        check_apart(Config(environment=EnvironmentSettings(id=f"{__file__}:Gone")))
    own = config(tmp_path, wrappers={"NormalizeReward": {}})
    with pytest.raises((EnvironmentFault, ConfigError)) as here:
        check(own)
    with pytest.raises(type(here.value)) as apart:
        check_apart(own)
    assert str(apart.value) == str(here.value)


def test_the_command_says_it_in_one_line(tmp_path):
    (tmp_path / "game.py").write_text(GAME.replace('where=""', 'where="exit step 5"'))
    done = subprocess.run(
        [sys.executable, "-m", "soulsai", "check-env", "game.py:Game"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "soulsai: game.py:Game: its process ended with exit code 7 during step 5"
    )
    assert done.returncode == 1
