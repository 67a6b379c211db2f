"""Vector environments: what is recorded is what single environments would have given."""

import copy
import logging
import random
from collections import defaultdict

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from soulsai.client.creation import make_vector
from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.environment_report import check, describe
from soulsai.client.evaluate import evaluate
from soulsai.client.in_process import InProcessVector
from soulsai.client.probe import open_environment, probe
from soulsai.config import schema
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.heads import to_environment
from soulsai.types import MASK, EnvironmentOffer, Head, zeros
from tests.unit.client.player_cases import stage
from tests.unit.client.test_evaluate import towards_goal, written
from tests.unit.client.vector_cases import KINDS, MODES, SEED, Scripted, adapted, sync

CASES = "tests.unit.client.vector_cases"
COUNT = 5
SPACES = [
    ("ToyEnv", "epsilon_greedy"),
    ("MaskedToy", "epsilon_greedy"),
    ("DictToy", "epsilon_greedy"),
    ("MultiDiscreteToy", "categorical"),
    ("BoxToy", "squashed"),
    ("HybridToy", "hybrid"),
]


def seeded(env):
    """Begin with the seeds that ``stage`` does not give."""
    reset = env.reset
    env.reset = lambda *, seed=None, **options: reset(
        seed=None if seed is None else seed + SEED, **options
    )
    return env


def content(message):
    arrays = {}
    for name in message.__struct_fields__:
        value = getattr(message, name)
        arrays[name] = (
            {key: np.asarray(each).tolist() for key, each in value.items()}
            if isinstance(value, dict)
            else np.asarray(value).tolist()
        )
    return arrays


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize(("kind", "head"), SPACES)
def test_with_equal_seeds_it_gives_the_fragments_of_single_environments(kind, head, mode):
    options = {"masked": kind == "MaskedToy", "info_keys": ("distance", "t")}
    options |= {"memory": head in ("epsilon_greedy", "categorical"), "eval_fraction": 0.3}
    if head == "epsilon_greedy":
        options["exploration"] = {"random": 0.5}
    _, wanted, go, counted = stage([seeded(KINDS[kind]()) for _ in range(COUNT)], head, **options)
    go(400)
    vector = adapted(seeded(sync(COUNT, kind, mode.value)), masked=kind == "MaskedToy")
    _, line, go, progress = stage(vector, head, **options)
    go(400)
    assert list(map(content, line.messages)) == list(map(content, wanted.messages))
    assert (progress.steps, progress.episodes) == (counted.steps, counted.episodes)
    assert progress.episodes > 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "head"), SPACES)
def test_a_single_environment_repeats_every_step_of_every_episode(kind, head, mode):
    masked = kind == "MaskedToy"
    vector = adapted(seeded(sync(COUNT, kind, mode.value)), masked=masked)
    _, line, go, progress = stage(vector, head, masked=masked, eval_fraction=0.2)
    go(300)
    assert sum(map(len, line.fragments)) == progress.steps
    episodes = defaultdict(list)
    for fragment in line.fragments:
        episodes[fragment.episode].append(fragment)
    free = []  # environments, each at the beginning of its next episode
    for index in range(COUNT):
        env = AdaptedEnvironment(KINDS[kind](), "it", mask_key="action_mask", masked=masked)
        rows = {name: zeros(leaf) for name, leaf in vector.spec.obs.items()}
        env.reset(rows, SEED + index)
        free.append((env, rows))
    for number in sorted(episodes):  # as they began
        fragments = episodes[number]
        repeated = (repeats(*copy.deepcopy(each), fragments, Head(head)) for each in free)
        index, after = next((i, after) for i, after in enumerate(repeated) if after)
        del free[index]
        if fragments[-1].ended:
            after[0].reset(after[1])
            free.append(after)


def repeats(env, rows, fragments, head):
    """Return the environment after the same episode, or nothing if it has another one."""
    if not matches(rows, fragments[0].obs, 0):
        return None
    steps = 0
    for fragment in fragments:
        assert fragment.start == steps
        steps += len(fragment)
        for step, action in enumerate(fragment.action):
            outcome = env.step(to_environment(head, env.spec.action, action), rows)
            last = step + 1 == len(fragment)
            ends = (last and fragment.terminated, last and fragment.truncated)
            if (outcome.terminated, outcome.truncated) != ends:
                return None
            if np.float32(outcome.reward) != fragment.reward[step]:
                return None
            if not matches(rows, fragment.obs, step + 1):
                return None
    return env, rows


def matches(rows, columns, at):
    return all(np.array_equal(rows[name], columns[name][at]) for name in rows)


def test_gymnasiums_own_cartpole_crosses_no_episode():
    env = gymnasium.make_vec("CartPole-v1", 8, vectorization_mode="vector_entry_point")
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    _, line, go, _ = stage(adapted(env), exploration={"random": 1.0}, fragment_steps=64)
    go(2000)
    plain = gymnasium.make("CartPole-v1").unwrapped
    for fragment in line.fragments:
        for step, action in enumerate(fragment.action):
            plain.reset()
            plain.state = fragment.obs["obs"][step]
            obs, reward, terminated, _, _ = plain.step(int(action))
            np.testing.assert_allclose(obs, fragment.obs["obs"][step + 1], atol=1e-5)
            assert reward == fragment.reward[step]
            assert terminated == (fragment.terminated and step + 1 == len(fragment))
        if fragment.start == 0:
            assert np.abs(fragment.obs["obs"][0]).max() <= 0.05
    assert [one.steps for one in line.episodes] == [one.reward for one in line.episodes]
    assert len(line.episodes) > 40


@pytest.mark.parametrize("mode", MODES)
def test_a_time_limit_truncates_with_the_observation_after_it(mode):
    vector = adapted(sync(3, "ToyEnv", mode.value, max_episode_steps=4, length=50))
    _, line, go, _ = stage(vector, fragment_steps=8)
    go(60)
    ends = [one for one in line.fragments if one.truncated]
    assert ends
    for one in ends:
        assert (len(one), one.terminated) == (4, False)
        # The toy shows the share of its time that is left.
        np.testing.assert_allclose(one.obs["obs"][:, 3], 1 - np.arange(5) / 200, atol=1e-6)
    assert {episode.steps for episode in line.episodes if not episode.terminated} == {4}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("known", [True, False])
def test_an_end_of_both_kinds_is_a_truncation_at_the_known_limit(mode, known, caplog):
    vector = adapted(sync(2, "Abrupt", mode.value, length=50), most_steps=5 * known)
    with caplog.at_level(logging.WARNING):
        _, line, go, _ = stage(vector)
        go(40)
    ends = [one for one in line.fragments if one.ended]
    assert len(ends) > 2
    assert {(one.terminated, one.truncated) for one in ends} == {(not known, known)}
    assert caplog.text.count("as terminated and as truncated") == (not known)


@pytest.mark.parametrize("mode", MODES)
def test_the_infos_of_an_end_are_those_of_its_last_step(mode):
    vector = adapted(seeded(sync(COUNT, "HybridToy", mode.value)))
    _, line, go, _ = stage(vector, "hybrid", info_keys=("t", "missing"))
    go(200)
    assert line.episodes
    for episode in line.episodes:
        assert episode.info == {"t": float(episode.steps)}


def test_a_fault_ends_all_episodes_and_the_ledger_holds():
    made, now = [], [0.0]

    def again():
        made.append(seeded(sync(3, "ToyEnv", "NextStep")))
        if len(made) == 1:
            step, calls = made[0].step, []

            def broken(actions):
                calls.append(actions)
                if len(calls) == 150:
                    raise RuntimeError("the games have crashed")
                return step(actions)

            made[0].step = broken
        return adapted(made[-1])

    vector = InProcessVector(
        again,
        schema.WatchdogSettings(),
        rng=random.Random(1),
        clock=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    vector.spec = probe(schema.EnvironmentSettings(id="soulsai.testing:ToyEnv"))
    _, line, go, progress = stage(vector, fragment_steps=64)
    go(600)
    assert len(made) == 2
    assert progress.restarts == 1
    assert progress.faults == {"crash": 1}
    assert progress.trouble.startswith("crash: it: step raised RuntimeError: the games have cra")
    assert sum(map(len, line.fragments)) + progress.discarded == progress.steps
    assert 0 < progress.discarded < 3 * 64


@pytest.mark.parametrize("mode", MODES)
def test_the_first_of_a_vector_is_evaluated_as_a_single_environment(tmp_path, mode):
    offer = EnvironmentOffer(f"{CASES}:sync", kwargs={"mode": mode.value}, count=3, vector=True)
    policy = written(tmp_path / "vector.onnx", offer.id, towards_goal(), offer=offer)
    plain = written(tmp_path / "plain.onnx", "soulsai.testing:ToyEnv", towards_goal())
    wanted = evaluate(plain, episodes=11, seed=5, environment="soulsai.testing:ToyEnv")
    assert evaluate(policy, episodes=11, seed=5, environment=offer.id) == wanted


def test_a_reset_in_between_leaves_no_reset_behind():
    settings = schema.EnvironmentSettings(id="CartPole-v1", vector=True, count=2)
    env = open_environment(settings, schema.ClientSettings())
    rows = {name: zeros(leaf) for name, leaf in env.spec.obs.items()}
    for seed in range(5):
        env.reset(rows, seed)
        over, before = False, rows["obs"].copy()
        while not over:
            result = env.step(0, rows)
            assert result.reward == 1.0
            assert rows["obs"][1] < before[1]  # it is pushed to the left, always
            before, over = rows["obs"].copy(), result.terminated
    env.close()


def test_a_registered_vector_is_made_with_its_limit():
    settings = schema.EnvironmentSettings(id=f"{CASES}:VectorToy-v0", vector=True, count=4)
    assert probe(settings) == probe(schema.EnvironmentSettings(id="soulsai.testing:ToyEnv"))
    env = make_vector(settings.id, {"length": 90}, 4, 0, {})
    env.reset(seed=0)
    for _ in range(20):
        *_, truncated, _ = env.step(np.ones(4, np.int64))
    assert truncated.all()


@pytest.mark.parametrize("kind", ["ToyEnv", "MaskedToy"])
def test_check_env_plays_the_vector(kind):
    config = schema.Config(
        environment=schema.EnvironmentSettings(
            id=f"{CASES}:sync", kwargs={"kind": kind}, vector=True, count=4
        )
    )
    report = check(config, steps=60)
    assert report.episodes > 0
    assert (report.mask, MASK in report.spec.obs) == (
        ("info", True) if kind == "MaskedToy" else ("", False)
    )
    assert any("4 environments of each client in one" in line for line in describe(report, config))


FAULTS = [
    ({"reward": np.zeros(3)}, "step returns rewards as float64 (3,) instead of one for each of 2"),
    ({"reward": np.array([0, np.nan])}, "the reward is not finite: nan"),
    ({"reward": np.array([0, 1e7])}, "the reward 1e+07 is beyond environment.largest_reward"),
    ({"terminated": np.zeros(2)}, "step returns terminated as float64 (2,)"),
    ({"obs": np.zeros((3, 1), "f4")}, "leaf 'obs' has shape (3, 1) instead of (2, 1)"),
    ({"obs": np.full((2, 1), np.nan)}, "leaf 'obs' is not finite"),
    ({"infos": None}, "the info is NoneType instead of a dict"),
    ({"infos": {"action_mask": np.ones((2, 2))}}, "info['action_mask'] holds an action mask"),
    ({"reset": np.zeros((2, 1))}, "reset returns numpy.ndarray instead of (observations, infos)"),
]


@pytest.mark.parametrize(("returned", "message"), FAULTS)
def test_what_it_returns_is_checked(returned, message):
    vector = adapted(Scripted(**returned), largest_reward=1e6)
    rows = {name: zeros(leaf, 2) for name, leaf in vector.spec.obs.items()}

    def play():
        vector.reset(rows)
        vector.step(np.zeros(2, np.int64), rows)

    with pytest.raises(EnvironmentFault) as raised:
        play()
    assert message in str(raised.value)
    assert str(raised.value).startswith("it: ")
    assert "\n" not in str(raised.value)


def test_last_observations_may_be_arrays_as_some_packages_give_them():
    mode = AutoresetMode.SAME_STEP
    ended = np.array([False, True])
    infos = {"final_obs": np.array([[0], [7]], "f4"), "final_info": {"n": np.array([0, 3])}}
    vector = adapted(Scripted(mode=mode, terminated=ended, infos=infos))
    rows = {"obs": np.zeros((2, 1), "f4")}
    vector.reset(rows)
    vector.step(np.zeros(2, np.int64), rows)
    np.testing.assert_array_equal(rows["obs"], [[1], [7]])
    assert vector.info_of(1) == {"n": 3}
    np.testing.assert_array_equal(vector.begin(rows), ended)
    np.testing.assert_array_equal(rows["obs"], [[1], [1]])


def test_without_its_last_observations_it_is_refused():
    vector = adapted(Scripted(mode=AutoresetMode.SAME_STEP, terminated=np.ones(2, bool)))
    rows = {"obs": np.zeros((2, 1), "f4")}
    vector.reset(rows)
    with pytest.raises(EnvironmentFault, match="infos have no 'final_obs'"):
        vector.step(np.zeros(2, np.int64), rows)


def test_seeds_count_on_within_an_int32():
    given = []
    env = Scripted(num_envs=4)
    env.reset = lambda *, seed=None, options=None: (given.append(seed), (env.look(), {}))[1]
    vector = adapted(env)
    rows = {"obs": np.zeros((4, 1), "f4")}
    for seed in (2**31 - 1, 7, None):
        vector.reset(rows, seed)
    vector.gives_mask(2**31 - 1)
    assert given == [2**31 - 4, 7, None, 2**31 - 4]


def test_it_must_say_when_it_resets():
    with pytest.raises(EnvironmentFault, match="metadata\\['autoreset_mode'\\] is None"):
        adapted(Scripted(mode=None))


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        ("Pendulum-v1", {}, "its package has no vector environment; leave out environment.vector"),
        ("gym:CartPole-v1", {}, "the old Gym has no vector environments; leave out"),
        (f"{CASES}:single", {}, "not a gymnasium.vector.VectorEnv"),
        (f"{CASES}:sync", {"wrappers": {"ClipReward": {}}}, "which ClipReward cannot wrap"),
        (f"{CASES}:sync", {"max_episode_steps": 9}, "give it to the function in environment.kw"),
        (f"{CASES}:sync", {"kwargs": {"kind": "No"}}, "cannot be made: KeyError: 'No'"),
    ],
)
def test_what_cannot_be_made_says_so(id, options, message):
    settings = schema.EnvironmentSettings(id=id, vector=True, count=2, **options)
    with pytest.raises(EnvironmentFault) as raised:
        probe(settings)
    assert message in str(raised.value)


@pytest.mark.parametrize("other", ["realtime", "isolate"])
def test_it_is_played_in_the_process_of_the_client(other):
    environment = schema.EnvironmentSettings(vector=True, **{other: True})
    with pytest.raises(ConfigError, match=r"set environment\.realtime and environment\.isolate"):
        schema.check(schema.Config(environment=environment))


def test_a_limit_of_gymnasium_is_that_of_the_vector():
    env = TimeLimit(KINDS["ToyEnv"](length=50), 4)
    vector = make_vector(f"{CASES}:sync", {"max_episode_steps": 4, "length": 50}, 1, 0, {})
    np.testing.assert_array_equal(env.reset(seed=0)[0], vector.reset(seed=0)[0][0])
    for _ in range(4):
        plain, many = env.step(1), vector.step(np.ones(1, np.int64))
    assert (plain[3], many[3].all()) == (True, True)
