"""Usual mistakes of environments: taken where the meaning is clear, else named in one line."""

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.environment_offer import check_offer
from soulsai.client.probe import probe
from soulsai.config.schema import EnvironmentSettings
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.types import MASK, EnvironmentOffer, Leaf, zeros

NUMBER = spaces.Box(0.0, 1.0, (1,), np.float32)


class Plain(gymnasium.Env):
    """An environment whose observation, reward, info and spaces are given."""

    def __init__(self, seen=None, reward=1.0, info=(), space=NUMBER, action=None, late=None):
        self.observation_space, self.action_space = space, action or spaces.Discrete(2)
        self.seen = np.zeros(1, np.float32) if seen is None else seen
        self.reward, self.info, self.late = reward, {} if info == () else info, late

    def reset(self, *, seed=None, options=None):
        if self.late is not None:
            self.observation_space = self.late
        return self.seen, {} if self.info is None else self.info

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.seen, self.reward, False, False, self.info


class Tensor:
    """Refuses to become an array, as a tensor that requires a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


def played(env, action=1, steps=2, masked=False):
    environment = AdaptedEnvironment(env, "it", mask_key="action_mask", masked=masked)
    rows = {name: zeros(leaf) for name, leaf in environment.spec.obs.items()}
    environment.reset(rows, 1)
    results = [environment.step(action, rows) for _ in range(steps)]
    return environment, rows, results


@pytest.mark.parametrize(
    "reward", [np.array([0.5]), np.array([[0.5]]), [0.5], np.float32(0.5), np.array(0.5)]
)
def test_one_number_of_any_shape_is_a_reward(reward):
    assert played(Plain(reward=reward))[2][0].reward == 0.5


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (np.array([1.0, 2.0]), r"\[1\. 2\.\] instead of one number"),
        ("much", "instead of one number"),
        (None, "instead of one number"),
        (Tensor(), "a Tensor that NumPy cannot read"),
    ],
)
def test_any_other_reward_is_named(reward, words):
    with pytest.raises(EnvironmentFault, match=f"^it: step returns a reward .* {words}"):
        played(Plain(reward=reward))


@pytest.mark.parametrize("reward", [5e6, -5e6, np.array([5e6])])
def test_a_reward_beyond_the_limit_names_the_setting(reward):
    environment = AdaptedEnvironment(
        Plain(reward=reward), "it", mask_key="", masked=False, largest_reward=1e6
    )
    rows = {name: zeros(leaf) for name, leaf in environment.spec.obs.items()}
    environment.reset(rows)
    mend = r"^it: the reward -?5e\+06 is beyond environment.largest_reward \(1e\+06\); raise it, or"
    with pytest.raises(EnvironmentFault, match=mend):
        environment.step(1, rows)


class Old(Plain):
    """Has the API of Gym before 0.26, in its reset, its step, or both."""

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32)  # which unpacks into two

    def step(self, action):
        return self.seen, 1.0, False, {}


class OldStep(Old):
    def reset(self, *, seed=None, options=None):
        return self.seen, {}


def test_the_old_api_is_named():
    with pytest.raises(EnvironmentFault, match=r"reset returns numpy\.ndarray instead .*shimmy"):
        played(Old())
    with pytest.raises(EnvironmentFault, match=r"step returns a tuple of 4 instead .*shimmy"):
        played(OldStep())
    with pytest.raises(EnvironmentFault, match="reset returns"):
        AdaptedEnvironment(Old(), "it", mask_key="", masked=False).reset({})


def test_an_info_that_is_no_dict_is_named():
    with pytest.raises(EnvironmentFault, match=r"^it: the info is NoneType instead of a dict"):
        played(Plain(info=None))


@pytest.mark.parametrize("seen", [Tensor(), {"obs": 1}, [[1], [1, 2]]])
def test_an_observation_that_numpy_cannot_read_is_named(seen):
    with pytest.raises(EnvironmentFault, match=r"^it: observation leaf 'obs' (is|has)"):
        played(Plain(seen=seen))


def test_leaves_that_cannot_be_read_are_left_out_and_named(caplog):
    space = spaces.Dict(
        {
            "mission": spaces.Text(9),
            "items": spaces.Box(0.0, 1.0, (0,), np.float32),
            "bag": spaces.Sequence(spaces.Discrete(2)),
            "pose": NUMBER,
        }
    )
    seen = {"mission": "go", "items": np.zeros(0), "bag": (1,), "pose": np.ones(1)}
    environment, rows, _ = played(Plain(seen, space=space))
    assert list(environment.spec.obs) == ["pose"]
    assert rows["pose"] == 1
    for name in ("mission", "items", "bag"):
        assert f"leaf={name}: left out" in caplog.text


@pytest.mark.parametrize("name", ["q", "logits", "mean", "log_std", "mask", "memory_h"])
def test_a_name_of_the_graph_is_no_name_of_a_leaf(name):
    environment, rows, _ = played(Plain({name: np.ones(1)}, space=spaces.Dict({name: NUMBER})))
    assert list(environment.spec.obs) == [f"obs.{name}"]
    assert rows[f"obs.{name}"] == 1


def test_spaces_that_reset_changes_are_named(monkeypatch):
    late = spaces.Box(0.0, 1.0, (4,), np.float32)
    words = r"reset changes the observation space from Box.*\(1,\).* to Box.*\(4,\).*__init__"
    with pytest.raises(EnvironmentFault, match=words):
        played(Plain(np.zeros(4), late=late))
    monkeypatch.setitem(
        sys.modules, "late_of_the_test", SimpleNamespace(Late=lambda: Plain(np.zeros(4), late=late))
    )
    with pytest.raises(EnvironmentFault, match=words):
        probe(EnvironmentSettings(id="late_of_the_test:Late"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bound", [0.1, 1 / 3, 77.7])
def test_an_action_at_its_bound_is_in_its_space(dtype, bound):
    space = spaces.Box(-bound, bound, (1,), dtype)
    for sign in (1, -1):
        played(Plain(action=space), np.array([sign * space.high[0]], np.float32))


def masked_space(mask):
    return spaces.Dict({"action_mask": mask, "pose": NUMBER})


@pytest.mark.parametrize("mask", [spaces.Box(0, 1, (2,), np.int8), spaces.MultiBinary(2)])
def test_a_mask_in_the_observation_is_the_mask(mask):
    seen = {"action_mask": np.array([0, 1], np.int8), "pose": np.zeros(1)}
    environment, rows, _ = played(Plain(seen, space=masked_space(mask)))
    assert environment.spec.obs == {
        "pose": Leaf((1,), "<f4", low=0, high=1),
        MASK: Leaf((2,), "|b1"),
    }
    assert rows[MASK].tolist() == [False, True]


@pytest.mark.parametrize("masked", [True, False])
def test_a_mask_with_nothing_valid_is_named(masked):
    none = np.zeros(2, np.int8)
    env = (
        Plain(info={"action_mask": none})
        if masked
        else Plain(
            {"action_mask": none, "pose": np.zeros(1)}, space=masked_space(spaces.MultiBinary(2))
        )
    )
    with pytest.raises(EnvironmentFault, match=r"^it: 'action_mask' allows no action"):
        played(env, masked=masked)


def test_each_component_needs_a_valid_choice():
    env = Plain(info={"action_mask": [1, 1, 0, 0]}, action=spaces.MultiDiscrete([2, 2]))
    with pytest.raises(EnvironmentFault, match="allows no action"):
        played(env, np.array([0, 0]), masked=True)


class LateMask(Plain):
    def step(self, action):
        return self.seen, 1.0, False, False, {"action_mask": np.ones(2)}


def test_a_mask_that_comes_late_is_named():
    with pytest.raises(EnvironmentFault, match="give a mask from the first reset on"):
        played(LateMask())


def test_kwargs_may_be_lists_and_dicts_but_hold_no_paths_of_strangers(monkeypatch):
    made = []
    module = SimpleNamespace(make=lambda **kwargs: made.append(kwargs) or Plain())
    monkeypatch.setitem(sys.modules, "road_of_the_test", module)
    kwargs = {"config": {"lanes": 3, "deep": {"names": ["a", "b"]}}, "levels": ["easy"]}
    make("road_of_the_test:make", kwargs)
    assert made == [kwargs]
    offer = EnvironmentOffer("CartPole-v1", kwargs)
    assert check_offer(offer, named="", listed=(), own_kwargs={}) == "CartPole-v1"
    for bad in ({"a": {"b": ["/etc/passwd"]}}, {"a": [{"x\\y": 1}]}):
        offer = EnvironmentOffer("CartPole-v1", bad)
        with pytest.raises(ConfigError, match="with a path in a="):
            check_offer(offer, named="", listed=(), own_kwargs={})


def test_ids_with_a_namespace_and_without_a_version(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    (tmp_path / "registered.py").write_text(
        "import gymnasium\nfrom soulsai.testing import ToyEnv\n"
        "for name in ('OfTheTest/Toy-v0', 'OfTheTest/Toy-v1', 'OfTheTestToy'):\n"
        "    gymnasium.register(name, entry_point=ToyEnv)\n"
    )
    for name in ("OfTheTest/Toy", "OfTheTest/Toy-v1", "OfTheTestToy"):
        assert make(f"{tmp_path}/registered.py:{name}", {}).spec.id.startswith(name)
    offer = EnvironmentOffer("CartPole")
    assert check_offer(offer, named="", listed=(), own_kwargs={}) == "CartPole"
    with pytest.raises(EnvironmentFault, match=r"module that registers it, as in module:ALE/Pong"):
        make("ALE/Pong-v5", {})
