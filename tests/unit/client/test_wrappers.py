"""Wrappers from settings: those of Gymnasium itself, and the ones that a server may request."""

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium import wrappers as gymnasium_wrappers

from soulsai.client.creation import make
from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.environment_offer import check_offer
from soulsai.client.own_values import with_own
from soulsai.client.probe import probe
from soulsai.client.wrappers import PERMITTED
from soulsai.config.schema import ClientSettings, EnvironmentSettings
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.types import EnvironmentOffer, zeros

ID = "CartPole-v1"
STACK = {"FrameStackObservation": {"stack_size": 3}}
OWN = "tests.unit.client.test_wrappers:AddOne"


class AddOne(gymnasium.ObservationWrapper):
    """Adds a number to all observations."""

    def __init__(self, env, number=1.0):
        super().__init__(env)
        self.number = np.float32(number)

    def observation(self, observation):
        return observation + self.number


def first(wrappers, seed=3):
    adapted = AdaptedEnvironment(make(ID, {}, 0, wrappers), ID, mask_key="", masked=False)
    rows = {name: zeros(leaf) for name, leaf in adapted.spec.obs.items()}
    adapted.reset(rows, seed)
    adapted.step(1, rows)
    return rows["obs"]


def test_an_environment_plays_as_inside_gymnasiums_own_wrappers():
    wrappers = STACK | {"FlattenObservation": {}}
    env = gymnasium.make(ID)
    env = gymnasium_wrappers.FrameStackObservation(env, stack_size=3)
    env = gymnasium_wrappers.FlattenObservation(env)
    env.reset(seed=3)
    np.testing.assert_array_equal(first(wrappers), env.step(1)[0])
    assert probe(EnvironmentSettings(id=ID, wrappers=wrappers)).obs["obs"].shape == (12,)


def test_the_first_one_is_the_innermost():
    inside = first({OWN: {"number": 10}, **STACK})
    assert (inside > 5).all()
    outside = first({"FrameStackObservation": {"stack_size": 3, "padding_type": "zero"}, OWN: {}})
    assert outside[0].tolist() == [1, 1, 1, 1]


def test_all_that_a_server_may_request_exist():
    named = {name for name in PERMITTED if ":" not in name}
    assert set(gymnasium_wrappers.__all__) >= named
    assert len(named) > 20


@pytest.mark.parametrize(
    ("wrappers", "words"),
    [
        ({"FrameStack": {"stack_size": 4}}, "no wrapper 'FrameStack'; did you mean Frame"),
        ({"Qqqqqqqq": {}}, "no wrapper 'Qqqqqqqq'; name others as module:Class"),
        ({"FrameStackObservation": {"size": 4}}, r"cannot wrap it: TypeError: .*'size'"),
        ({"GrayscaleObservation": {}}, "GrayscaleObservation cannot wrap it: ValueError"),
        ({"NormalizeObservation": {}}, "the learner normalises itself"),
        ({"CartPole-v1:x": {}}, "cannot wrap it"),
        ({"gymnasium:CartPole-v1": {}}, "is an environment, not a wrapper"),
    ],
)
def test_another_one_is_refused_in_one_line(wrappers, words):
    with pytest.raises(EnvironmentFault, match=words) as caught:
        make(ID, {}, 0, wrappers)
    assert str(caught.value).startswith(f"{ID}: environment.wrappers: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [OWN, "RecordVideo", "HumanRendering", "os:system"])
def test_a_server_gets_no_other_than_this_client_allows(name):
    offer = EnvironmentOffer(ID, wrappers={name: {}})

    def check(**options):
        return check_offer(offer, named="", listed=(), own_kwargs={}, **options)

    with pytest.raises(ConfigError, match=r"the wrapper .* client\.allowed_wrappers"):
        check()
    assert check(allowed_wrappers=(name,)) == check(own_wrappers={name: {}}) == ID


def test_gymnasiums_need_no_permission():
    offer = EnvironmentOffer(ID, wrappers=STACK)
    assert check_offer(offer, named="", listed=(), own_kwargs={}) == ID


def test_a_clients_own_are_inside_those_of_the_run():
    own = ClientSettings(wrappers={OWN: {}, "ClipReward": {"max_reward": 2.0}})
    offer = EnvironmentOffer(ID, wrappers=STACK | {"ClipReward": {"max_reward": 1.0}})
    assert list(with_own(offer, own).wrappers.items()) == [
        (OWN, {}),
        ("ClipReward", {"max_reward": 2.0}),
        *STACK.items(),
    ]
    again = msgspec.json.decode(msgspec.json.encode(offer), type=EnvironmentOffer)
    assert list(again.wrappers) == list(offer.wrappers)
