"""A server may only ask for environments that this client allows."""

import gymnasium
import msgspec
import pytest

from soulsai.client.environment_offer import check_offer, difference
from soulsai.errors import ConfigError
from soulsai.types import ActionSpec, EnvironmentOffer, Leaf, Spec


def check(offer, named="", listed=(), own_kwargs=None):
    return check_offer(offer, named=named, listed=listed, own_kwargs=own_kwargs or {})


def test_what_ships_with_gymnasium_is_allowed_while_there_is_no_list():
    assert check(EnvironmentOffer("CartPole-v1")) == "CartPole-v1"
    with pytest.raises(ConfigError, match=r"'CartPole-v1'.*client\.environments"):
        check(EnvironmentOffer("CartPole-v1"), listed=("LunarLander-v3",))


@pytest.mark.parametrize("id", ["soulsai.testing:ToyEnv", "os:system", "evil.py:make", "NoSuch-v0"])
def test_nothing_else_is(id):
    with pytest.raises(ConfigError, match="does not allow"):
        check(EnvironmentOffer(id))
    assert check(EnvironmentOffer(id), listed=(id,)) == id


def test_an_id_that_another_package_registered_is_not_gymnasiums():
    gymnasium.register("Foreign-v0", entry_point="soulsai.testing:ToyEnv")
    gymnasium.register("Local-v0", entry_point=lambda: None)
    for id in ("Foreign-v0", "Local-v0"):
        with pytest.raises(ConfigError):
            check(EnvironmentOffer(id))
        gymnasium.registry.pop(id)


def test_what_the_user_names_is_played_in_place_of_the_offer():
    assert check(EnvironmentOffer("evil.py:make"), named="mine.py:make") == "mine.py:make"


@pytest.mark.parametrize("value", ["/etc/passwd", "..\\x", "a/b"])
def test_paths_in_kwargs_are_refused_unless_they_are_our_own(value):
    offer = EnvironmentOffer("CartPole-v1", {"file": value})
    for named in ("", "mine.py:make"):
        with pytest.raises(ConfigError, match="file"):
            check(offer, named=named)
    with pytest.raises(ConfigError, match="file"):
        check(offer, own_kwargs={"file": "other/path"})
    assert check(offer, own_kwargs={"file": value}) == "CartPole-v1"
    assert check(EnvironmentOffer("CartPole-v1", {"mode": "rgb", "n": 3, "x": None}))


@pytest.mark.parametrize("count", [0, -1, 257, 10**9])
def test_the_number_of_environments_is_bounded(count):
    with pytest.raises(ConfigError, match=str(count)):
        check(EnvironmentOffer("CartPole-v1", count=count))


SPEC = Spec(
    {"obs": Leaf((8,), "<f4", 0, -1.0, 1.0), "door": Leaf((), "|u1", 3)},
    ActionSpec("discrete", (), (4,)),
)


def test_equal_specs_have_no_difference_whatever_the_bounds_of_observations():
    assert difference(SPEC, SPEC) == ""
    other = {**SPEC.obs, "obs": Leaf((8,), "<f4")}
    assert difference(SPEC, msgspec.structs.replace(SPEC, obs=other)) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"obs": {**SPEC.obs, "obs": Leaf((6,), "<f4")}}, ["'obs'", "float32[8]", "float32[6]"]),
        ({"obs": {**SPEC.obs, "obs": Leaf((8,), "|u1")}}, ["float32[8]", "uint8[8]"]),
        ({"obs": {**SPEC.obs, "door": Leaf((), "|u1", 4)}}, ["'door'", "3 cat", "4 cat"]),
        ({"obs": {"obs": SPEC.obs["obs"]}}, ["'door'", "missing in the run"]),
        ({"obs": dict(reversed(SPEC.obs.items()))}, ["order"]),
        (
            {"action": ActionSpec("discrete", (), (5,))},
            ["the actions are one of 4 here and one of 5 in the run"],
        ),
        (
            {"action": ActionSpec("discrete", (1,), (4,))},
            ["one of 4 (shape ()) here and one of 4 (shape (1,)) in the run"],
        ),
    ],
)
def test_a_difference_is_spelt_out(changes, words):
    text = difference(SPEC, msgspec.structs.replace(SPEC, **changes))
    assert all(word in text.replace("is missing", "missing") for word in words), text
