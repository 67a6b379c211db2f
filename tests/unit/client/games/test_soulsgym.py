"""The wrapper of SoulsGym's fights: recorded observations, masks, and lines for what is wrong."""

import json
import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from soulsai.client.creation import make
from soulsai.client.games import soulsgym
from soulsai.client.probe import probe
from soulsai.config.schema import EnvironmentSettings
from soulsai.errors import EnvironmentFault
from soulsai.testing.iudex import BOSS_ANIMATIONS, BOSS_HP, PLAYER_ANIMATIONS, PLAYER_HP, Iudex
from soulsai.types import MASK

SAMPLES = json.loads((Path(__file__).parent / "data" / "iudex_samples.json").read_text())
CENTRE = soulsgym.GAMES["SoulsGymIudex-v0"].centre
NUMBERS = 32


def arrays(sample):
    return {
        name: np.array(value, np.float32) if isinstance(value, list) else value
        for name, value in sample.items()
    }


@pytest.mark.parametrize("sample", SAMPLES)
def test_recorded_observations_become_the_numbers_they_mean(sample):
    wrapped = soulsgym.FightVector(Iudex(), CENTRE, "it")
    obs = arrays(sample)
    vector = wrapped.observation(obs)
    assert wrapped.observation_space.contains(vector)
    assert vector.shape == (NUMBERS + PLAYER_ANIMATIONS + 1 + BOSS_ANIMATIONS + 1,) == (116,)
    assert vector[0] == 2 * sample["phase"] - 3
    assert vector[1] == pytest.approx(sample["player_hp"][0] / PLAYER_HP, abs=1e-6)
    assert vector[3] == pytest.approx(sample["boss_hp"][0] / BOSS_HP, abs=1e-6)
    assert vector[4] == 2 * sample["lock_on"] - 1
    assert vector[5] == pytest.approx(sample["player_animation_duration"][0] / 10, abs=1e-6)
    assert vector[7] == pytest.approx((sample["player_pose"][0] - 150) / 40, abs=1e-5)
    assert vector[10] == pytest.approx((sample["boss_pose"][0] - 150) / 40, abs=1e-5)
    (px, py, *_), (bx, by, *_) = sample["player_pose"], sample["boss_pose"]
    assert vector[13] == pytest.approx(min(1.0, math.hypot(bx - px, by - py) / 50), abs=1e-5)
    player, boss = np.split(vector[NUMBERS:], [PLAYER_ANIMATIONS + 1])
    known = sample["player_animation"] < PLAYER_ANIMATIONS  # the recording's table was longer
    assert player.sum() == 1
    assert player[sample["player_animation"] + 1 if known else 0] == 1
    assert (boss.sum(), boss[sample["boss_animation"] + 1]) == (1, 1)


def test_an_animation_outside_the_table_counts_as_unknown():
    wrapped = soulsgym.FightVector(Iudex(), CENTRE, "it")
    vector = wrapped.observation(arrays(SAMPLES[3]) | {"player_animation": 400})
    assert vector[NUMBERS] == 1


def test_numbers_that_only_some_bosses_have_follow_the_angles():
    class Vordt(Iudex):
        def __init__(self):
            super().__init__()
            frost = {"frost_effect": spaces.Box(0.0, 1.0), "frost_resistance": spaces.Box(0.0, 1.0)}
            self.observation_space = spaces.Dict({**self.observation_space, **frost})

    wrapped = soulsgym.FightVector(Vordt(), (27.5, 19.5), "it")
    frost = {"frost_resistance": np.array([0.25]), "frost_effect": np.array([0.5])}
    vector = wrapped.observation(arrays(SAMPLES[3]) | frost)
    assert vector.shape == (118,)
    assert vector[NUMBERS : NUMBERS + 2].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("info", "allowed"),
    [
        ({}, range(20)),
        ({"allowed_actions": [3, 19]}, [3, 19]),
        ({"allowed_actions": []}, []),
        ({"action_mask": np.arange(20) == 7}, [7]),
        ({"action_mask": [0] * 19 + [1], "allowed_actions": [3]}, [19]),
    ],
)
def test_masks_of_both_versions_are_read(info, allowed):
    mask = soulsgym.action_mask(info, 20)
    assert mask.dtype == np.bool_
    assert np.flatnonzero(mask).tolist() == list(allowed)


@pytest.mark.parametrize(
    "info",
    [
        {"action_mask": np.ones(19, np.bool_)},
        {"action_mask": "all"},
        {"action_mask": np.ones(20)},
        {"allowed_actions": [20]},
        {"allowed_actions": [-1]},
        {"allowed_actions": [1.5]},
        {"allowed_actions": [[1], [2]]},
    ],
)
def test_a_mask_of_the_wrong_kind_is_refused(info):
    with pytest.raises(ValueError, match="info"):
        soulsgym.action_mask(info, 20)


def test_the_fight_can_be_lost_and_stays_within_its_spaces():
    env = make("soulsai.testing:SoulsGymIudex-v0", {"pace": 0.0, "reset_seconds": 0.0})
    game = env.unwrapped
    rng = np.random.default_rng(0)
    ends = []
    for episode in range(5):
        vector, info = env.reset(seed=episode)
        over = cut = False
        while not (over or cut):
            assert env.observation_space.contains(vector)
            assert game.observation_space.contains(game._fight.observation(rng))
            action = rng.choice(np.flatnonzero(info["action_mask"]))
            vector, reward, over, cut, info = env.step(action)
            assert abs(reward) < 1
        ends.append(reward)
        assert info["win"] == float(info["boss_hp"] == 0)
    assert min(ends) < 0


def test_it_is_seen_by_its_id_as_it_is_and_by_the_wrapper_as_a_vector():
    plain = probe(EnvironmentSettings(id="soulsai.testing:Iudex-v0"))
    assert list(plain.obs) == [*Iudex().observation_space, MASK]
    assert plain.obs["player_animation"].categories == PLAYER_ANIMATIONS + 1
    quick = {"pace": 0.0, "reset_seconds": 0.0}
    flat = probe(EnvironmentSettings(id="soulsai.testing:SoulsGymIudex-v0", kwargs=quick))
    assert (list(flat.obs), flat.obs["obs"].shape) == (["obs", MASK], (116,))


def test_an_episode_is_cut_after_3000_steps_or_sooner_if_told_to():
    id = "soulsai.testing:SoulsGymIudex-v0"
    assert make("soulsai.testing:Iudex-v0", {}).spec.max_episode_steps == 3000
    assert make(id, {}).spec.max_episode_steps == 3000
    assert make(id, {}, 50).spec.max_episode_steps == 50


@pytest.mark.parametrize("id", ["soulsgym:SoulsGymMargit-v0", "soulsai.testing:SoulsGymVordt-v0"])
def test_a_fight_outside_the_table_is_refused_with_those_in_it(id):
    with pytest.raises(EnvironmentFault, match="no such fight; choose SoulsGymIudex-v0"):
        make(id, {})


@pytest.mark.parametrize("package", ["soulsai.client.wrappers", "soulsai.client.games.soulsgym"])
def test_an_id_of_an_earlier_version_is_refused_with_the_new_one(package):
    with pytest.raises(EnvironmentFault, match=r"set environment\.id to soulsgym:SoulsGymIudex-v0"):
        make(f"{package}:iudex", {"game": "soulsgym"})


def test_an_observation_that_is_none_of_a_fight_is_refused():
    with pytest.raises(EnvironmentFault, match="the observation lacks boss_animation, boss_anim"):
        soulsgym.FightVector(gymnasium.make("CartPole-v1"), CENTRE, "it")


def test_a_pc_without_windows_or_the_game_is_told_so(monkeypatch):
    monkeypatch.setattr("soulsai.client.games.soulsgym.sys.platform", "linux")
    with pytest.raises(
        EnvironmentFault, match="SoulsGym needs Windows and the game; this is linux"
    ):
        make("soulsgym:SoulsGymIudex-v0", {})
    facts = [fact for fact, _ in soulsgym.problems("soulsgym:SoulsGymIudex-v0")]
    assert facts[1:] == ["soulsgym is not installed"]


class Process:
    def __init__(self, name):
        self.info, self.pid = {"name": name}, 7


@pytest.mark.parametrize(
    ("running", "open", "size", "fact"),
    [
        ([], True, None, "DarkSoulsIII.exe does not run"),
        (["DarkSoulsIII.exe"], False, None, "DarkSoulsIII.exe cannot be opened"),
        (["DarkSoulsIII.exe"], True, (1920, 1080), "the game's window is 1920 x 1080 pixels"),
        (["DarkSoulsIII.exe"], True, (800, 450), None),
    ],
)
def test_the_game_is_looked_at_before_a_fight(monkeypatch, running, open, size, fact):
    monkeypatch.setattr("soulsai.client.games.soulsgym.sys.platform", "win32")
    monkeypatch.setattr(soulsgym.importlib.metadata, "version", lambda _name: "1.1.0")
    monkeypatch.setattr("psutil.process_iter", lambda _attrs: [Process(name) for name in running])
    monkeypatch.setattr(soulsgym, "_may_open", lambda _pid: open)
    monkeypatch.setattr(soulsgym, "_window_size", lambda: size)
    found = [found for found, _ in soulsgym.problems("soulsgym:SoulsGymIudex-v0")]
    assert found == ([fact] if fact else [])


def test_pictures_of_the_first_release_need_its_python(monkeypatch):
    monkeypatch.setattr("soulsai.client.games.soulsgym.sys.platform", "win32")
    monkeypatch.setattr("sys.version_info", (3, 13))
    monkeypatch.setattr(soulsgym.importlib.metadata, "version", lambda _name: "1.1.0")
    monkeypatch.setattr(soulsgym, "_game_problems", lambda: iter(()))
    found = [found for found, _ in soulsgym.problems("soulsgym:SoulsGymIudexImg-v0")]
    assert found == ["soulsgym 1.1.0 captures pictures with Python 3.11 only; this is 3.13"]
