"""``check-env``: what an author of an environment is told, and the mistakes that are found."""

import itertools
import logging

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium import spaces

from soulsai.algorithms.spec_text import describe_leaf
from soulsai.client.environment_report import check, describe
from soulsai.client.probe import probe
from soulsai.config import Config
from soulsai.config.schema import (
    AlgorithmSettings,
    EnvironmentSettings,
    RunSettings,
    StageSettings,
    TelemetrySettings,
)
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.testing import BoxToy, DictToy, MaskedToy, MultiDiscreteToy, ToyEnv
from soulsai.types import Leaf


def config(id, **settings):
    return Config(environment=EnvironmentSettings(id=id, **settings))


def words(config, **options):
    return list(describe(check(config, **options), config))


def a_clock(seconds):
    """Return a clock that goes on by this much with each look."""
    return itertools.count(step=seconds).__next__


def test_a_verdict_in_words():
    said = words(config("CartPole-v1"), clock=a_clock(0.001))
    episodes = int(said[0].rpartition("ended ")[2].split()[0])
    assert episodes > 3, "random play does not hold the pole for long"
    assert said[0].startswith("OK: CartPole-v1 played 200 steps and ended")
    assert "  observation  obs: 4 numbers, normalised by mean and deviation" in said
    assert "  actions      one of 2" in said
    assert "  action mask  none: every action is always valid" in said
    assert "  reward       always 1 per step" in said
    assert "  info numbers none" in said
    assert "  speed        1,000 steps/s (1 ms per step), at most 1 ms per reset" in said
    assert any(line.startswith("  isolation    in the client's process") for line in said)
    assert said[-1] == (
        "  train        dqn, 2 clients, 150,000 env steps; the environment alone takes 75 s"
    )


@pytest.mark.parametrize("kind", [ToyEnv, MaskedToy, DictToy, MultiDiscreteToy, BoxToy])
def test_each_kind_of_space_is_played(kind):
    report = check(config(f"soulsai.testing:{kind.__name__}"), steps=50)
    assert report.steps == 50
    assert report.mask == ("info" if kind is MaskedToy else "")


def test_a_slow_environment_is_tried_for_ten_seconds_and_may_be_a_game():
    said = words(config("CartPole-v1"), clock=a_clock(0.25))
    assert "played 40 steps" in said[0]
    assert "               if it goes on by itself, set environment.realtime: true" in said
    said = words(config("CartPole-v1", realtime=True), clock=a_clock(0.25))
    assert any(line.startswith("  isolation    in a process of its own") for line in said)


def test_an_algorithm_that_cannot_learn_it_is_named_with_those_that_can():
    own = config("Pendulum-v1")
    assert words(own)[-1].endswith("dqn cannot learn these actions; give --algorithm ppo or sac")
    boundless = f"{__name__}:{Boundless.__name__}"
    own_range = msgspec.structs.replace(config(boundless), algorithm=AlgorithmSettings("sac"))
    assert words(own_range)[-1].endswith(
        "sac cannot learn these actions; set environment.action_range, or give --algorithm ppo"
    )
    ranged = config(boundless, action_range=(-1.0, 1.0))
    ranged = msgspec.structs.replace(ranged, algorithm=AlgorithmSettings("sac"))
    assert words(ranged)[-1].startswith("  train        sac, 2 clients")
    own = msgspec.structs.replace(
        own, algorithm=AlgorithmSettings("ppo"), run=RunSettings(max_env_steps=0)
    )
    said = words(own)
    assert "  actions      1 number, -2 to 2" in said
    assert said[-1] == "  train        ppo, 2 clients, no planned end"


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (Leaf((), "|u1", 7), "one of 7 categories, one-hot"),
        (Leaf((3,), "|u1", 7), "3 of 7 categories each, one-hot"),
        (
            Leaf((84, 96, 4), "|u1", low=0, high=255),
            "image of 84 x 96, 4 channels or stacked frames (last axis), by a vision encoder",
        ),
        (Leaf((2, 5), "<f4", low=-1, high=1),
         "10 numbers (2 x 5), -1 to 1, normalised by mean and deviation"),
        (Leaf((9,), "<i4", low=0, high=9), "9 numbers of int32, 0 to 9, divided by the largest"),
        (Leaf((9,), "<i4"), "9 numbers, normalised by mean and deviation"),
        (
            Leaf((240, 320, 3), "|u1"),
            "image of 240 x 320, 3 channels or stacked frames (last axis), by a vision encoder; "
            "environment.image makes it smaller",
        ),
        (Leaf((84, 96), "|u1"), "image of 84 x 96, grey, by a vision encoder"),
        (
            Leaf((4, 84, 96, 3), "|u1"),
            "image of 84 x 96, 4 frames of 3 channels (last axis), by a vision encoder",
        ),
        (Leaf((84, 96, 3), "<f4"), "24192 numbers (84 x 96 x 3), no image as it has no finite "
         "bounds, normalised by mean and deviation"),
        (Leaf((), "|b1"), "1 number, 0 or 1"),
    ],
)  # fmt: skip
def test_how_a_leaf_is_taken(leaf, text):
    assert describe_leaf(leaf) == text


class Author(gymnasium.Env):
    """An environment with a mistake that can be chosen."""

    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)
    obs = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken = 0
        return self.obs, {}

    def step(self, action):
        self.taken += 1
        return self.obs, float(self.taken), self.taken == 5, False, {"souls": 3, "name": "x"}


class Boundless(Author):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class NoSpaces(Author):
    @property
    def observation_space(self):
        raise AttributeError("'NoSpaces' object has no attribute 'observation_space'")


class NoSeed(Author):
    def reset(self):
        return self.obs, {}


class OldReset(Author):
    def reset(self, *, seed=None, options=None):
        return self.obs


class OldStep(Author):
    def step(self, action):
        return self.obs, 1.0, False, {}


class NoInfo(Author):
    def step(self, action):
        return self.obs, 1.0, False, False, None


class OtherShape(Author):
    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}


class NotFinite(Author):
    def step(self, action):
        return np.full(2, np.nan, np.float32), 1.0, False, False, {}


class NotFiniteReward(Author):
    def step(self, action):
        return self.obs, float("nan"), False, False, {}


class Words(Author):
    action_space = spaces.Dict({"say": spaces.Text(9)})


class NoEnvironment:
    pass


class NothingValid(Author):
    def reset(self, *, seed=None, options=None):
        return self.obs, {"action_mask": np.zeros(2, bool)}


class MaskOnce(Author):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": np.ones(2, bool)}


class LongMask(Author):
    def reset(self, *, seed=None, options=None):
        return self.obs, {"action_mask": np.ones(3, np.int8)}


class FloatMask(Author):
    def reset(self, *, seed=None, options=None):
        return self.obs, {"action_mask": np.ones(2)}


MISTAKES = {
    NoSpaces: r"set self\.observation_space and self\.action_space in __init__",
    NoSeed: r"define it as def reset\(self, \*, seed=None, options=None\)",
    OldReset: r"instead of \(observation, info\); write `return observation, \{\}`",
    OldStep: r"a tuple of 4 instead of \(observation, .*split `done` into terminated",
    NoInfo: r"the info is NoneType instead of a dict; return \{\}",
    OtherShape: r"has shape \(3,\) instead of \(2,\); let observation_space be that of",
    NotFinite: r"observation leaf 'obs' is not finite: \[nan nan\]",
    NotFiniteReward: "the reward is not finite: nan",
    Words: r"leaf 'say' of the action space Text\(.*\) is not supported; it can be Discrete",
    NoEnvironment: r"not a gymnasium\.Env; return one, whose class inherits from gymnasium\.Env",
    NothingValid: "'action_mask' allows no action after reset, .*; allow one, or end the episode",
    MaskOnce: "'action_mask' is missing in info; give the action mask with each reset and each st",
    LongMask: r"'action_mask' in info has shape \(3,\) instead of \(2,\): one for each choice",
    FloatMask: "'action_mask' in info is of float64; give booleans, or whole numbers of which 0",
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_answered_by_what_to_change(kind, monkeypatch):
    monkeypatch.setattr("soulsai.testing.Theirs", kind, raising=False)
    with pytest.raises(EnvironmentFault, match=MISTAKES[kind]) as caught:
        check(config("soulsai.testing:Theirs"))
    assert "/soulsai/client/" not in str(caught.value), "a line of ours says nothing to its author"


def test_a_file_without_a_name_is_answered_by_what_it_defines(tmp_path):
    file = tmp_path / "farm.py"
    file.write_text("import gymnasium\nclass Farm(gymnasium.Env): ...\ndef make(): ...\nN = 3\n")
    with pytest.raises(EnvironmentFault, match=r"farm\.py:make; the file defines Farm, make$"):
        check(config(str(file)))


class Unseeded(Author):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        return np.random.random(2).astype("f4"), {}


class Endless(Author):
    def step(self, action):
        return self.obs + 7, 1.0, False, False, {}


class Tiny(Author):
    """Counts to 5 in integers up to 100,000, and to 500 in others."""

    observation_space = spaces.Dict({
        "few": spaces.Box(0, 100_000, (1,), np.int32),
        "many": spaces.Box(0, 100_000, (1,), np.int32),
    })  # fmt: skip

    @property
    def obs(self):
        return {name: np.array([times * self.taken], np.int32) for name, times in self.times}

    times = (("few", 1), ("many", 100))


class Constant(Author):
    def step(self, action):
        return self.obs, 0.0, True, False, {}


@pytest.mark.parametrize(
    ("kind", "warnings"),
    [
        (Author, []),
        (Unseeded, [r"reset(seed=1) gives another observation each time"]),
        (Endless, ["obs: 7 is outside [0, 1]", "no episode ended in 200 steps"]),
        (Tiny, ["observation leaf 'few': 1 to 5, of bounds up to 100000, look like a constant"]),
        (Constant, ["the reward of every step was 0"]),
    ],
)
def test_a_doubt_is_a_warning(kind, warnings, monkeypatch, caplog):
    monkeypatch.setattr("soulsai.testing.Theirs", kind, raising=False)
    report = check(config("soulsai.testing:Theirs"))
    assert [warning for warning in report.warnings if not warning.startswith(tuple(warnings))] == []
    assert len(report.warnings) == len(warnings)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING], "said once, in words"


def test_unknown_keys_of_the_info_are_named_and_known_ones_listed(monkeypatch):
    monkeypatch.setattr("soulsai.testing.Theirs", Author, raising=False)
    own = config("soulsai.testing:Theirs", info_keys=("souls", "soul"))
    own = msgspec.structs.replace(own, telemetry=TelemetrySettings(metrics={"deep": "info.depth"}))
    report = check(own)
    assert report.info_keys == ("souls",)
    assert [warning.split(",")[0] for warning in report.warnings] == [
        "no step gave info['soul']", "no step gave info['depth']",
    ]  # fmt: skip
    assert next(describe(report, own)).startswith("OK, with 2 warnings: ")


@pytest.mark.parametrize(("fault", "found"), [("step", "crashed"), ("nan", "finite")])
def test_faults_that_only_steps_show_are_found(fault, found):
    with pytest.raises(EnvironmentFault, match=found):
        check(config("soulsai.testing:RudeEnv", kwargs={"fault": fault}))


def scheduled(*stages):
    schedule = tuple(StageSettings(10 * (i + 1), kwargs) for i, kwargs in enumerate(stages))
    return config("soulsai.testing:ToyEnv", kwargs={"length": 8}, schedule=schedule)


def test_each_stage_of_a_schedule_is_made_and_told():
    said = words(scheduled({"length": 4}, {}))
    assert "  schedule     from env step 10: {length: 4}" in said
    assert "  schedule     from env step 20: {}" in said


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([{"length": 4}, {"lenght": 4}], r"^environment\.schedule: from env step 20: .*lenght"),
        ([{"length": "many"}], r"^environment\.schedule: from env step 10: "),
    ],
)
def test_a_stage_that_cannot_be_made_is_named_in_one_line(stages, told):
    with pytest.raises(ConfigError, match=told) as caught:
        check(scheduled(*stages))
    assert "\n" not in str(caught.value)


class Growing(ToyEnv):
    def __init__(self, size=4):
        super().__init__()
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)

    def _observation(self):
        return np.zeros(self.observation_space.shape, np.float32)


def test_a_stage_with_other_spaces_is_named_in_one_line():
    schedule = (StageSettings(7, {"size": 5}),)
    found = config(f"{__file__}:{Growing.__name__}", schedule=schedule)
    told = r"^environment\.schedule: from env step 7: the spaces differ .*leaf 'obs' is"
    with pytest.raises(ConfigError, match=told):
        check(found)
    with pytest.raises(ConfigError, match=told):
        probe(found.environment)
