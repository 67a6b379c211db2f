"""What an environment sees becomes named arrays, and is kept to its word."""

import logging

import numpy as np
import pytest
from gymnasium import spaces

from soulsai.client.probe import probe
from soulsai.config import schema
from soulsai.errors import EnvironmentFault
from soulsai.testing import DictToy
from soulsai.types import ActionSpec, Leaf
from tests.unit.client.environment_cases import Shown, adapted

MOST = float(np.finfo(np.float32).max)


def seen(space, obs):
    environment, rows = adapted(Shown(space, obs))
    environment.reset(rows)
    return rows


def fault(space, obs):
    environment, rows = adapted(Shown(space, obs))
    with pytest.raises(EnvironmentFault) as caught:
        environment.reset(rows)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What an environment looks like


@pytest.mark.parametrize(
    ("space", "leaf"),
    [
        (spaces.Box(-1, 1, (3,), np.float32), Leaf((3,), "<f4", 0, -1.0, 1.0)),
        (spaces.Box(-1, 2, (3,), np.float64), Leaf((3,), "<f4", 0, -1.0, 2.0)),
        (spaces.Box(-np.inf, 2, (3,), np.float32), Leaf((3,), "<f4")),
        (spaces.Box(0, 255, (4, 4, 3), np.uint8), Leaf((4, 4, 3), "|u1", 0, 0.0, 255.0)),
        (spaces.Box(-3, 3, (), np.int64), Leaf((), "<i8", 0, -3.0, 3.0)),
        (spaces.Box(0, 1, (10, 10), bool), Leaf((10, 10), "|b1", 0, 0.0, 1.0)),
        (spaces.Discrete(5, start=-2), Leaf((), "|u1", 5)),
        (spaces.Discrete(256), Leaf((), "|u1", 256)),
        (spaces.Discrete(257), Leaf((), "<u2", 257)),
        (spaces.Discrete(2**16 + 1), Leaf((), "<u4", 2**16 + 1)),
        (spaces.MultiDiscrete([2, 9]), Leaf((2,), "|u1", 9)),
        (spaces.MultiBinary((2, 3)), Leaf((2, 3), "|b1")),
    ],
)
def test_a_space_becomes_a_leaf(space, leaf):
    assert adapted(Shown(space, None))[0].spec.obs == {"obs": leaf}


def test_dicts_and_tuples_are_flattened_to_named_leaves_in_their_order():
    spec = adapted(DictToy())[0].spec
    names = ["camera", "doors", "enemies.0", "enemies.1", "player.pose", "player.weapon"]
    assert sorted(spec.obs) == names
    assert list(spec.obs) == list(
        probe(schema.EnvironmentSettings(id="soulsai.testing:DictToy")).obs
    )


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(4, start=3), ActionSpec("discrete", (), (4,), start=(3,))),
        (
            spaces.MultiDiscrete([2, 3]),
            ActionSpec("multidiscrete", (2,), (2, 3), start=(0, 0), native_shape=(2,)),
        ),
        (
            spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 3]]),
            ActionSpec(
                *("multidiscrete", (4,), (2, 3, 4, 5)), start=(0, 1, -2, 3), native_shape=(2, 2)
            ),
        ),
        (
            spaces.Box(np.array([-1, 0]), np.array([1, 2]), dtype=np.float64),
            ActionSpec("box", (2,), (), (-1.0, 0.0), (1.0, 2.0)),
        ),
        (spaces.Box(-np.inf, 1, (1,)), ActionSpec("box", (1,), (), (-MOST,), (1.0,))),
        (spaces.Box(-1e99, 1e99, (1,), "f8"), ActionSpec("box", (1,), (), (-MOST,), (MOST,))),
    ],
)
def test_an_action_space_becomes_an_action_spec(space, expected):
    assert adapted(Shown(spaces.Discrete(2), 0, space))[0].spec.action == expected


@pytest.mark.parametrize(
    ("obs", "action", "words"),
    [
        (spaces.Text(5), spaces.Discrete(2), "'obs': it is Text"),
        (spaces.Discrete(2), spaces.Text(5), "action space"),
        (spaces.Dict({}), spaces.Discrete(2), "no leaf"),
        (
            spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}),
            spaces.Discrete(2),
            "'a.b'",
        ),
    ],
)
def test_spaces_that_we_cannot_carry_are_refused_by_name(obs, action, words):
    with pytest.raises(EnvironmentFault, match=f"^it: .*{words}"):
        adapted(Shown(obs, None, action))


# Reading


def test_values_arrive_in_the_leaves_dtype_with_offsets_subtracted():
    assert seen(spaces.Discrete(3, start=5), 7)["obs"] == 2
    assert seen(spaces.Discrete(3, start=5), np.int64(5))["obs"] == 0
    space = spaces.MultiDiscrete([2, 300], start=[1, 10])
    np.testing.assert_array_equal(seen(space, np.array([2, 309]))["obs"], [1, 299])
    np.testing.assert_array_equal(
        seen(spaces.Box(0, 1, (2,), np.float64), [0.5, 1])["obs"], [0.5, 1]
    )
    np.testing.assert_array_equal(
        seen(spaces.MultiBinary(3), np.array([1, 0, 1]))["obs"], [1, 0, 1]
    )
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(
        seen(spaces.Box(0, 255, (2, 2, 3), np.uint8), image)["obs"], image
    )


def test_nested_leaves_arrive_under_their_names():
    environment, rows = adapted(DictToy())
    environment.reset(rows, seed=3)
    raw, _ = (env := DictToy()).reset(seed=3)
    np.testing.assert_array_equal(rows["player.pose"], raw["player"]["pose"].astype(np.float32))
    assert rows["player.weapon"] == raw["player"]["weapon"] - 1
    np.testing.assert_array_equal(rows["camera"], raw["camera"])
    np.testing.assert_array_equal(rows["enemies.1"], raw["enemies"][1])
    assert env.observation_space.contains(raw)


def test_changing_the_environments_buffer_afterwards_changes_nothing():
    buffer = np.ones(4, np.float32)
    environment, rows = adapted(Shown(spaces.Box(-1, 1, (4,), np.float32), buffer))
    environment.reset(rows)
    buffer[:] = -1
    np.testing.assert_array_equal(rows["obs"], np.ones(4))


@pytest.mark.parametrize(
    ("space", "obs", "words"),
    [
        (spaces.Box(0, 1, (3,)), np.zeros(2, np.float32), ["'obs'", "(2,)", "(3,)"]),
        (spaces.Box(0, 1, (1,)), np.float32(0), ["()", "(1,)"]),
        (spaces.Box(0, 1, (1,)), np.array([None]), ["dtype object"]),
        (spaces.Box(0, 1, (1,)), np.array(["a"]), ["dtype <U1"]),
        (spaces.Box(0, 1, (2,)), [[1], [1, 2]], ["'obs'"]),
        (spaces.Box(0, 1, (2,)), np.array([0, np.nan]), ["not finite", "nan"]),
        (spaces.Box(0, 1, (2,)), np.array([-np.inf, np.inf]), ["not finite"]),
        (spaces.Box(-np.inf, np.inf, (1,), np.float64), np.array([1e300]), ["not finite"]),
        (spaces.Box(0, 255, (1,), np.uint8), np.array([0.5]), ["float64", "uint8"]),
        (spaces.Box(0, 255, (1,), np.uint8), np.array([256]), ["256", "uint8"]),
        (spaces.Box(0, 255, (1,), np.uint8), np.array([-1]), ["-1"]),
        (spaces.MultiBinary(1), np.array([2]), ["bool"]),
        (spaces.Discrete(3), 1.0, ["float64", "integer"]),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"b": 1}, ["'a'", "missing"]),
        (spaces.Dict({"a": spaces.Discrete(2)}), None, ["'a'", "missing"]),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), (1,), ["'1'", "missing"]),
    ],
)
def test_a_leaf_that_breaks_its_promise_is_named(space, obs, words):
    message = fault(space, obs)
    assert message.startswith("it: observation leaf ")
    assert all(word in message for word in words), message


def test_numbers_whose_sum_overflows_are_still_finite():
    huge = np.full(2, 3e38, np.float32)
    np.testing.assert_array_equal(seen(spaces.Box(-np.inf, np.inf, (2,)), huge)["obs"], huge)


@pytest.mark.parametrize(
    ("space", "obs", "row", "words"),
    [
        (spaces.Discrete(4000), 4000, 3999, "4000 is outside 0..3999"),
        (spaces.Discrete(3, start=1), -7, 0, "-7 is outside 1..3"),
        (spaces.MultiDiscrete([2, 9]), np.array([2, 0]), [1, 0], "[2 0] is outside [0 0]..[1 8]"),
    ],
)
def test_a_category_that_does_not_exist_becomes_the_nearest_with_a_warning(
    caplog, space, obs, row, words
):
    environment, rows = adapted(Shown(space, obs))
    for _ in range(3):
        environment.reset(rows)
    np.testing.assert_array_equal(rows["obs"], row)
    (record,) = caplog.records
    assert f"leaf=obs: {words}; said once" in record.getMessage()


def test_values_beyond_declared_bounds_are_warned_about_once(caplog):
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-np.inf, np.inf, (1,))})
    environment, _ = adapted(Shown(space, None))
    rows = {"a": np.array([[0, 0], [0, 5]], np.float32), "b": np.array([[9], [9]], np.float32)}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            environment.check_bounds(rows)
    (record,) = caplog.records
    assert "leaf=a: 5 is outside [-1, 1]" in record.getMessage()
