"""Our wrapper and our stand-in against SoulsGym 1.1.0 as released, with only the game faked."""

import math

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soulsai.client.creation import make as make_any
from soulsai.client.games import soulsgym
from soulsai.errors import EnvironmentFault
from soulsai.testing import iudex
from tests.contract import soulsgym_cases

IUDEX = "soulsgym:SoulsGymIudex-v0"
BOTH = (IUDEX, "soulsai.testing:SoulsGymIudex-v0")
QUICK = {"pace": 0.0, "reset_seconds": 0.0}
released = soulsgym_cases.released


def made(id, **kwargs):
    return make_any(id, kwargs | (QUICK if id == BOTH[1] else {}))


def animation(game, number):
    """Return the name of an animation, by its number in the package's table."""
    return next(name for name, row in game.player_animations.items() if row["ID"] == number)


# Spaces


def test_the_stand_in_has_the_spaces_of_the_released_package(released):
    del released
    real, ours = made(IUDEX).unwrapped, iudex.Iudex()
    assert list(real.observation_space) == list(ours.observation_space)
    for name, space in real.observation_space.items():
        assert ours.observation_space[name] == space, name
    assert real.action_space == ours.action_space


@pytest.mark.parametrize("id", BOTH)
def test_a_fight_is_one_vector_of_116_numbers_and_a_mask(released, id):
    del released
    env = made(id)
    assert env.observation_space == gymnasium.spaces.Box(-1, 1, (116,), np.float32)
    obs, info = env.reset(seed=1)
    assert env.observation_space.contains(obs)
    assert info["action_mask"].shape == (20,)
    assert info["action_mask"].dtype == np.bool_
    obs, reward, terminated, truncated, info = env.step(np.int64(19))
    assert env.observation_space.contains(obs)
    assert isinstance(float(reward), float)
    assert (terminated, truncated, info["win"], info["boss_hp"]) == (False, False, 0.0, 1037.0)


def test_the_whole_fight_is_played_by_its_demo_and_pictures_are_stacked(released):
    del released
    demo = made("soulsgym:SoulsGymIudexDemo-v0")
    obs, _ = demo.reset()
    assert obs.shape == (116,)
    image = made("soulsgym:SoulsGymIudexImg-v0")
    obs, info = image.reset()
    assert (obs.shape, obs.dtype) == ((4, 90, 160), np.uint8)
    assert (info["boss_hp"], info["win"], info["action_mask"].all()) == (1037.0, 0.0, True)


# Masks


@pytest.mark.parametrize("number", sorted(iudex.TIMINGS))
@pytest.mark.parametrize("stamina", [0, 30])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seconds=st.floats(0.0, 2.0))
def test_the_stand_in_allows_what_the_released_package_allows(released, number, stamina, seconds):
    env = made(IUDEX)
    env.reset()
    state = env.unwrapped._internal_state
    state.player_animation, state.player_sp = animation(released[-1], number), stamina
    state.player_animation_duration = seconds
    fight = iudex._Fight()
    fight.animation, fight.since, fight.player_sp = number, seconds, stamina
    allowed = soulsgym.action_mask(env.unwrapped.info, 20)
    assert fight.allowed().tolist() == allowed.tolist()


def test_an_action_that_is_not_allowed_is_ignored_by_both(released):
    env = made(IUDEX)
    env.reset()
    pressed = []
    env.unwrapped._game_input.add_actions = pressed.append
    released[-1].player_animation = "RollingMedium"
    env.step(19)
    env.step(16)
    assert pressed == [[]]  # of action 19; nothing of the blow during a roll
    ours = made(BOTH[1])
    ours.reset()
    ours.step(8)
    _, _, _, _, info = ours.step(16)
    assert ours.unwrapped._fight.animation == iudex.ROLLING
    assert not info["action_mask"][16]


# Rewards and results

hps = st.tuples(st.integers(0, 454), st.integers(0, 1037))
places = st.tuples(st.floats(121, 179), st.floats(541, 639))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hps, hps, places, places)
def test_the_stand_in_pays_what_the_released_package_pays(released, before, after, start, end):
    env = made(IUDEX)
    env.reset()
    states = []
    for (hp, boss_hp), place in ((before, start), (after, end)):
        state = released[-1].get_state("iudex")
        state.player_hp, state.boss_hp = hp, boss_hp
        state.player_pose = np.array([*place, -68.0, 0.0])
        states.append(state)
    ours = iudex.reward(
        *((*hp, np.array(place)) for hp, place in zip((before, after), (start, end), strict=True))
    )
    assert ours == pytest.approx(env.unwrapped.compute_reward(*states), abs=1e-9)


def test_a_boss_without_health_is_a_win(released):
    env = made(IUDEX)
    env.reset()
    released[-1].boss_hp = 0
    _, reward, terminated, _, info = env.step(19)
    assert terminated
    assert (info["win"], info["boss_hp"]) == (1.0, 0.0)
    assert reward == pytest.approx(1.1)


# Angles: an oracle from outside is where the package itself puts a player who is to face the boss


def test_a_player_put_before_the_boss_faces_it(released):
    env = made(IUDEX)
    env.reset()
    game, boss = released[-1], released[-1].coordinates["iudex"]["boss_init_pose"]
    poses = game.coordinates["iudex"]["player_init_poses_random"]
    seen = []
    for pose in poses:
        game.player_pose, game.iudex_pose = np.array(pose), np.array(boss)
        obs, *_ = env.step(19)
        seen.append(obs[28])  # cosine of the boss as seen by the player
    assert len(poses) == 11
    assert min(seen) > 0.9


@pytest.mark.parametrize("id", BOTH)
@pytest.mark.parametrize(
    ("angle", "x", "y"),
    # A pose's angle of 0 faces along -y, and it grows clockwise.
    [(0.0, 0, -1), (math.pi / 2, -1, 0), (-math.pi / 2, 1, 0), (3.1415, 0, 1), (-3.1415, 0, 1)],
)
def test_the_boss_straight_ahead_is_seen_straight_ahead(released, id, angle, x, y):
    del released
    env = made(id)
    pose = np.array([140.0, 600.0, -68.0, angle], np.float32)
    boss = pose + np.array([8.0 * x, 8.0 * y, 0.0, 0.0], np.float32)
    obs = flat(env, pose, boss)
    assert (obs[20], obs[28]) == pytest.approx((0.0, 1.0), abs=1e-3)  # sine, cosine
    assert (obs[17], obs[25]) == pytest.approx((y, x), abs=1e-3)  # the player's heading
    beside = pose + np.array([-8.0 * y, 8.0 * x, 0.0, 0.0], np.float32)  # a quarter turn left
    obs = flat(env, pose, beside)
    assert (obs[20], obs[28]) == pytest.approx((1.0, 0.0), abs=1e-3)
    obs = flat(env, beside, pose, boss_angle=angle)
    assert (obs[21], obs[29]) == pytest.approx((1.0, 0.0), abs=1e-3)  # the player, for the boss


def flat(env, player, boss, boss_angle=None):
    """Return the vector of an observation in which both stand at given poses."""
    boss = np.array(boss)
    if boss_angle is not None:
        boss[3] = boss_angle
    sample = {name: space.sample() for name, space in env.unwrapped.observation_space.items()}
    return env.observation(sample | {"player_pose": player, "boss_pose": boss})


def test_the_stand_ins_player_and_boss_face_one_another():
    env = made(BOTH[1])
    obs, _ = env.reset(seed=3)
    for _ in range(50):
        assert (obs[28], obs[29], obs[30]) == pytest.approx((1, 1, 1), abs=1e-3)
        obs, *_ = env.step(env.action_space.sample())


# Arguments


@pytest.mark.parametrize("name", ["random_player_pose", "init_pose_randomization"])
@pytest.mark.parametrize("id", BOTH)
def test_arguments_of_both_versions_are_understood(released, id, name):
    del released
    env = made(id, game_speed=2.0, phase=1, skip_steps=False, **{name: True})
    env.reset(seed=0)


@pytest.mark.parametrize(
    ("kwargs", "named"), [({"skip_steps": True}, "skip_steps"), ({"speed": 2}, "speed")]
)
def test_an_argument_that_this_version_lacks_is_named(released, kwargs, named):
    del released
    with pytest.raises(EnvironmentFault, match=rf"kwargs\.{named}.*it has game_speed, phase, init"):
        made(IUDEX, **kwargs)


# Faults


def test_a_mask_of_the_wrong_kind_is_a_fault_of_one_line(released):
    del released
    env = made(IUDEX)
    env.reset()
    env.unwrapped.current_valid_actions = lambda: [3, 20]
    with pytest.raises(EnvironmentFault, match=r"\[3, 20\]; actions are 0 to 19"):
        env.step(19)


def test_a_fight_that_this_version_does_not_have_is_told(released):
    del released
    with pytest.raises(EnvironmentFault, match="has no SoulsGymVordt-v0"):
        made("soulsgym:SoulsGymVordt-v0")
