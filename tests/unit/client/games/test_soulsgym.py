"""The boss fight as a vector: every number is where it should be, whatever the game says."""

import json
import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from soulsai.client.environment import make, probe
from soulsai.client.games.soulsgym import IudexObservation, iudex
from soulsai.config.schema import EnvironmentSettings
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.testing.iudex import BOSS_ANIMATIONS, BOSS_HP, PLAYER_ANIMATIONS, PLAYER_HP, Iudex
from soulsai.types import MASK

SAMPLES = json.loads((Path(__file__).parent / "data" / "iudex_samples.json").read_text())
NUMBERS = 32


def arrays(sample):
    return {
        name: np.array(value, np.float32) if isinstance(value, list) else value
        for name, value in sample.items()
    }


@pytest.mark.parametrize("sample", SAMPLES)
def test_recorded_samples_become_the_numbers_they_mean(sample):
    wrapped = IudexObservation(Iudex())
    seen = arrays(sample)
    assert wrapped.env.observation_space.contains(seen)
    vector = wrapped.observation(seen)
    assert wrapped.observation_space.contains(vector)
    assert vector.shape == (NUMBERS + PLAYER_ANIMATIONS + 1 + BOSS_ANIMATIONS + 1,)

    assert vector[0] == 2 * sample["phase"] - 3
    assert vector[1] == pytest.approx(sample["player_hp"][0] / PLAYER_HP, abs=1e-6)
    assert vector[3] == pytest.approx(sample["boss_hp"][0] / BOSS_HP, abs=1e-6)
    assert vector[4] == 2 * sample["lock_on"] - 1
    assert vector[5] == pytest.approx(sample["player_animation_duration"][0] / 10, abs=1e-6)
    assert vector[7] == pytest.approx((sample["player_pose"][0] - 150) / 40, abs=1e-5)
    assert vector[10] == pytest.approx((sample["boss_pose"][0] - 150) / 40, abs=1e-5)
    (px, py, _, pa), (bx, by, _, ba) = sample["player_pose"], sample["boss_pose"]
    assert vector[13] == pytest.approx(min(1.0, math.hypot(bx - px, by - py) / 50), abs=1e-5)
    to_boss, to_player = math.atan2(by - py, bx - px), math.atan2(py - by, px - bx)
    gaze = math.atan2(sample["camera_pose"][4], sample["camera_pose"][3])
    together = math.hypot(bx - px, by - py) < 1e-6
    for place, angle in (
        *((16, to_boss), (17, pa), (18, ba), (19, gaze)),
        *((20, to_boss - pa), (21, to_player - ba), (22, to_boss - gaze)),
    ):
        if together and place == 21:
            continue  # nobody is anywhere
        assert vector[place] == pytest.approx(math.sin(angle), abs=1e-5)
        assert vector[place + 8] == pytest.approx(math.cos(angle), abs=1e-5)
    player, boss = np.split(vector[NUMBERS:], [PLAYER_ANIMATIONS + 1])
    assert (player.sum(), player[sample["player_animation"] + 1]) == (1, 1)
    assert (boss.sum(), boss[sample["boss_animation"] + 1]) == (1, 1)


def test_what_the_table_does_not_know_is_unknown():
    wrapped = IudexObservation(Iudex())
    vector = wrapped.observation(arrays(SAMPLES[3]) | {"player_animation": 400})
    assert vector[NUMBERS] == 1


def test_the_fight_can_be_won_and_lost_and_stays_within_its_spaces():
    env, game = iudex("stand-in", pace=0, reset_seconds=0), gymnasium.make("Iudex-v0")
    assert isinstance(game.observation_space, spaces.Dict)
    rng = np.random.default_rng(0)
    ends = []
    for episode in range(5):
        vector, info = env.reset(seed=episode)
        while True:
            assert env.observation_space.contains(vector)
            assert game.observation_space.contains(env.unwrapped._fight.seen(rng))
            action = rng.choice(np.flatnonzero(info["action_mask"]))
            vector, reward, over, cut, info = env.step(action)
            assert abs(reward) < 1
            if over or cut:
                ends.append(reward)
                break
    assert min(ends) < 0


def test_an_action_that_is_not_valid_is_refused():
    env = Iudex()
    _, info = env.reset()
    env.step(np.int64(16))
    with pytest.raises(ValueError, match="not valid"):
        env.step(np.int64(0))
    assert info["action_mask"].dtype == np.bool_


def test_it_is_seen_by_its_id_as_it_is_and_by_the_wrapper_as_a_vector():
    plain = probe(EnvironmentSettings(id="soulsai.testing:Iudex-v0"))
    assert list(plain.obs) == [*Iudex().observation_space, MASK]
    assert plain.obs["player_animation"].categories == PLAYER_ANIMATIONS + 1
    flat = probe(
        EnvironmentSettings(id="soulsai.client.games.soulsgym:iudex", kwargs={"game": "stand-in"})
    )
    assert list(flat.obs) == ["obs", MASK]


def test_an_episode_is_cut_after_3000_steps():
    assert make("soulsai.testing:Iudex-v0", {}).spec.max_episode_steps == 3000


def test_only_games_that_we_know_are_made():
    with pytest.raises(EnvironmentFault, match="soulsgym or stand-in"):
        make("soulsai.client.games.soulsgym:iudex", {"game": "os:system"})
    with pytest.raises(ConfigError, match="wanted a Dict"):
        IudexObservation(gymnasium.make("CartPole-v1"))


def test_a_game_that_is_not_installed_is_told():
    with pytest.raises(EnvironmentFault, match="soulsgym"):
        make("soulsai.client.games.soulsgym:iudex", {"game": "soulsgym"})
