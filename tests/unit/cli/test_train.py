"""Mistakes that ``soulsai train`` answers before it starts anything."""

import msgspec
import pytest

from soulsai.cli.train import _next_steps, check_choices, check_unfinished
from soulsai.config import Config
from soulsai.config.schema import AlgorithmSettings, EnvironmentSettings, RunSettings
from soulsai.errors import ConfigError, SoulsAIError
from soulsai.launch.summary import summarise
from soulsai.types import Status


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("CartPol-v1", "Environment `CartPol` doesn't exist. Did you mean: `CartPole`?"),
        ("nowhere.py:make", "nowhere.py: no such file"),
    ],
)
def test_an_environment_that_cannot_be_is_named(id, words):
    with pytest.raises(ConfigError) as caught:
        check_choices(Config(environment=EnvironmentSettings(id=id)))
    assert str(caught.value).startswith("environment.id: ")
    assert words in str(caught.value)


def test_a_name_that_a_file_does_not_hold_is_said_before_anything_is_started(tmp_path):
    file = tmp_path / "farm.py"
    file.write_text("import gymnasium\nclass Farm(gymnasium.Env): ...\ndef make(): ...\n")

    def check(name):
        check_choices(Config(environment=EnvironmentSettings(id=f"{file}{name}")))

    for name in (":make", ":Farm", ":Farm-v0", ":mine/Farm-v3"):
        check(name)
    with pytest.raises(ConfigError, match=r"farm\.py neither registers nor defines 'mak_e'"):
        check(":mak_e")
    with pytest.raises(SoulsAIError, match=r"farm\.py:make; the file defines Farm, make"):
        check("")
    file.write_text("from games import *\n")
    check(":anything")


@pytest.mark.parametrize("id", ["CartPole-v1", "package:Id", "soulsai.testing:ToyEnv"])
def test_an_environment_that_may_be_is_left_to_the_nodes(id):
    check_choices(Config(environment=EnvironmentSettings(id=id)))


def test_a_finished_run_says_so(tmp_path):
    status = Status("r", 1, "ended", "dqn", "CartPole-v1", env_steps=3022, max_env_steps=3000)
    (tmp_path / "status.json").write_bytes(msgspec.json.encode(status))
    with pytest.raises(ConfigError, match=r"finished already \(3,022 of 3,000 env steps\)"):
        check_unfinished(tmp_path, Config(run=RunSettings(max_env_steps=3000)))
    for planned in (0, 4000):
        check_unfinished(tmp_path, Config(run=RunSettings(max_env_steps=planned)))


def test_the_next_steps_fit_the_end_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("soulsai.cli.train._command", lambda: "soulsai")
    config = Config(run=RunSettings(max_env_steps=100))

    def steps(env_steps, config=config):
        status = Status("r", 1, "ended", "dqn", "X-v0", env_steps=env_steps)
        return list(_next_steps(summarise(tmp_path, status, 1.0), config, "serve"))

    play, again = f"soulsai evaluate {tmp_path}", f"soulsai serve --resume {tmp_path}"
    assert steps(100) == [play], "finished"
    assert steps(99) == [play, again], "stopped by a command"
    assert steps(0) == [again]
    assert steps(5, Config(run=RunSettings(max_env_steps=0))) == [play, again]


def test_an_unknown_algorithm_is_named():
    with pytest.raises(
        ConfigError, match=r"algorithm\.name: no 'a2c'; choose one of dqn, ppo, sac"
    ):
        check_choices(Config(algorithm=AlgorithmSettings(name="a2c")))
