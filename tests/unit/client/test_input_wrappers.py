"""Settings that change what a policy sees: leaves left out, pictures, the range of actions."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from soulsai.client.environment_offer import check_offer
from soulsai.client.input_wrappers import LeaveOut, Pictures
from soulsai.client.probe import open_environment, probe
from soulsai.config import load, schema
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.frame_stacks import stack_of
from soulsai.types import zeros
from tests.unit.client.environment_cases import Shown, adapted

HERE = __name__


class Game(gymnasium.Env):
    """Shows pictures of several layouts, one of which is nested, and words."""

    def __init__(self, height=96, width=64):
        picture = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                "eye": picture,
                "map": spaces.Box(0, 255, (48, 48), np.uint8),
                "self": spaces.Dict({"life": spaces.Discrete(9), "secret": spaces.Discrete(2)}),
                "views": spaces.Tuple((spaces.Box(0, 255, (3, 40, 40), np.uint8),)),
                "words": spaces.Text(9),
            }
        )
        most = np.array([np.inf, np.inf, 3], "f4")
        force = spaces.Box(np.array([-np.inf, 0, -3], "f4"), most)
        self.action_space = spaces.Tuple((spaces.Discrete(2), force))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.show(), {}

    def show(self):
        def drawn(*shape):
            return self.np_random.integers(0, 256, shape, np.uint8)

        height, width, _ = self.observation_space["eye"].shape
        self.eye = drawn(height, width, 3)
        return {
            "eye": self.eye,
            "map": drawn(48, 48),
            "self": {"life": 3, "secret": 1},
            "views": (drawn(3, 40, 40),),
            "words": "hello",
        }

    def step(self, action):
        return self.show(), 0.0, False, False, {}


def settings(*sets):
    return load(None, {}, [f"environment.id={HERE}:Game", *sets]).environment


def shapes(*sets):
    return {name: leaf.shape for name, leaf in probe(settings(*sets)).obs.items()}


def test_leaves_are_left_out_by_name():
    every = shapes()
    assert set(every) == {"eye", "map", "self.life", "self.secret", "views.0"}
    assert set(shapes("environment.leave_out=[eye, self.secret]")) == {
        "map",
        "self.life",
        "views.0",
    }
    assert set(shapes("environment.leave_out=[self, map, words]")) == {"eye", "views.0"}


def test_elements_of_tuples_are_left_out_by_index():
    assert set(shapes("environment.leave_out=[views.0]")) == set(shapes()) - {"views.0"}
    inner = spaces.Dict({"a": spaces.Box(0, 1), "b": spaces.Discrete(3)})
    space = spaces.Tuple((spaces.Box(0, 1, (4,)), inner, spaces.Discrete(5), spaces.Text(9)))
    space.seed(1)
    shown = space.sample()
    env = LeaveOut(Shown(space, shown), ["0", "1.a"])
    environment, rows = adapted(env)
    assert list(environment.spec.obs) == ["1.b", "2"]
    assert list(environment.left_out) == ["3"]
    environment.reset(rows)
    assert (int(rows["1.b"]), int(rows["2"])) == (shown[1]["b"], shown[2])
    assert env.observation_space.contains(env.reset()[0])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("[eyes]", "no 'eyes', only .*self.life"),
        ("[views.1]", "no 'views.1', only .*views.0"),
        ("[self.life.more]", "no 'self.life.more'"),
    ],
)
def test_a_name_that_cannot_be_left_out_is_refused(names, words):
    with pytest.raises(EnvironmentFault, match=rf"environment\.leave_out: .*{words}"):
        shapes(f"environment.leave_out={names}")


def test_pictures_become_small_grey_and_stacked():
    seen = shapes("environment.image={size: 24, grey: true, stack: 4}")
    assert seen == {
        "eye": (4, 24, 24), "map": (4, 24, 24), "self.life": (), "self.secret": (),
        "views.0": (4, 24, 24),
    }  # fmt: skip
    assert shapes("environment.image.size=24")["eye"] == (24, 24, 3)
    assert shapes("environment.image.stack=3")["eye"] == (3, 96, 64, 3)
    assert shapes("environment.image={grey: true}")["eye"] == (96, 64, 1)
    spec = probe(settings("environment.image={size: 48, stack: 3}"))
    assert stack_of(spec.obs["eye"]).depth == 3  # its frames travel once


def test_a_small_picture_is_the_mean_over_areas():
    """NumPy's block means and Pillow's own grey are the oracles."""
    env = Pictures(Game(), size=16, grey=False)
    obs, _ = env.reset(seed=1)
    blocks = env.unwrapped.eye.reshape(16, 6, 16, 4, 3).mean((1, 3))
    np.testing.assert_allclose(obs["eye"], blocks, atol=1.01)
    env = Pictures(Game(), grey=True)
    obs, _ = env.reset(seed=1)
    grey = np.asarray(Image.fromarray(env.unwrapped.eye).convert("L"))
    np.testing.assert_array_equal(obs["eye"][..., 0], grey)
    luma = env.unwrapped.eye @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(obs["eye"][..., 0], luma, atol=1.0)


@pytest.mark.parametrize("size", [1, 16, 37, 64, 84, 96, 200])
def test_any_size_is_that_of_pillow(size):
    """Pillow rounds after each of two passes, and we once."""
    env = Pictures(Game(), size=size, grey=False)
    obs, _ = env.reset(seed=2)
    theirs = [
        np.asarray(Image.fromarray(env.unwrapped.eye[..., channel]).resize((size, size), 4))
        for channel in range(3)
    ]
    assert Image.Resampling.BOX == 4
    difference = obs["eye"].astype(int) - np.stack(theirs, -1)
    assert np.abs(difference).max() <= 1
    assert obs["eye"].flags.c_contiguous


def test_a_stack_is_that_of_gymnasium():
    """``FrameStackObservation`` over single pictures is the oracle, over two episodes."""

    class Plain(gymnasium.Env):
        observation_space = spaces.Box(0, 255, (40, 44, 3), np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.drawn(), {}

        def drawn(self):
            return self.np_random.integers(0, 256, (40, 44, 3), np.uint8)

        def step(self, action):
            return self.drawn(), 0.0, False, False, {}

    ours = Pictures(Plain(), stack=3)
    theirs = gymnasium.wrappers.FrameStackObservation(Plain(), 3)
    assert ours.observation_space == theirs.observation_space
    for seed in (1, 2):
        mine, other = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
        for _ in range(5):
            np.testing.assert_array_equal(mine, other)
            assert ours.observation_space.contains(mine)
            mine, other = ours.step(0)[0], theirs.step(0)[0]


def test_an_environment_is_played_with_all_of_them():
    sets = [
        "environment.image={size: 24, grey: true, stack: 4}",
        "environment.leave_out=[words, map]",
        "environment.action_range=[-5, 5]",
    ]
    environment = open_environment(settings(*sets), schema.ClientSettings())
    assert environment.left_out == {}
    rows = {name: zeros(leaf) for name, leaf in environment.spec.obs.items()}
    environment.reset(rows, 1)
    before = rows["eye"].copy()
    environment.step(np.zeros(4), rows)
    np.testing.assert_array_equal(rows["eye"][:-1], before[1:])
    action = environment.spec.action
    assert (action.low, action.high) == ((-5.0, 0.0, -3.0), (5.0, 5.0, 3.0))
    assert action.bounded


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("environment.image={size: 5000}", r"environment\.image: size is 5000 of 0 to 1024"),
        ("environment.image={stack: 0}", "stack 0 of 1 to 16"),
        ("environment.action_range=[2, 1]", r"environment\.action_range: 2 to 1 is no range"),
    ],
)
def test_what_cannot_be_is_refused(sets, words):
    with pytest.raises(EnvironmentFault, match=words) as caught:
        probe(settings(sets))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (
            "environment.image={gray: true}",
            r"environment\.image: gray: True; wanted size: 84, grey",
        ),
        ("environment.image.size=true", r"environment\.image: size: True; wanted size: 84"),
        ("environment.image=84", r"environment\.image: wanted"),
        ("environment.action_range=[1]", r"environment\.action_range: one number"),
        ("environment.action_range=[1, 2, 3]", r"environment\.action_range"),
    ],
)
def test_what_is_no_setting_is_refused(sets, words):
    with pytest.raises(ConfigError, match=words):
        settings(sets)


def test_an_environment_without_pictures_is_refused():
    with pytest.raises(EnvironmentFault, match="the observation has no picture of bytes"):
        probe(
            load(None, {}, ["environment.id=CartPole-v1", "environment.image.size=84"]).environment
        )


def test_a_client_takes_them_from_any_server():
    sets = ["environment.id=CartPole-v1", "environment.image.size=84", "environment.leave_out=[a]"]
    offer = load(None, {}, [*sets, "environment.action_range=[0, 1]"]).environment.offer
    assert len(offer.wrappers) == 3
    assert check_offer(offer, named="", listed=(), own_kwargs={}) == "CartPole-v1"
