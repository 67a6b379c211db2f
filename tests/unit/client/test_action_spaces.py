"""Any action space: what a policy sees of it, and that what reaches it lies in it."""

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.client.action_spaces import NativeActions
from soulsai.client.isolation.worker import _action_from, action_bytes
from soulsai.client.probe import random_action
from soulsai.errors import EnvironmentFault
from soulsai.heads import to_environment
from soulsai.types import MASK, ActionSpec, Head
from tests.unit.client.environment_cases import Shown, adapted

MOST = float(np.finfo(np.float32).max)
GAME = spaces.Dict(
    {
        "move": spaces.Box(np.array([-1, 0], "f4"), np.array([1, 512], "f4")),
        "keys": spaces.MultiBinary(2),
        "menu": spaces.Tuple((spaces.Discrete(3, start=-1), spaces.Box(0, 9, (1,), np.int32))),
    }
)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.MultiBinary(3), ActionSpec("multidiscrete", (3,), (2, 2, 2))),
        (spaces.MultiBinary((1, 2)), ActionSpec("multidiscrete", (2,), (2, 2))),
        (
            spaces.Tuple((spaces.Discrete(3), spaces.MultiDiscrete([2, 5]))),
            ActionSpec("multidiscrete", (3,), (3, 2, 5)),
        ),
        (
            spaces.Dict({"b": spaces.Box(-1, 1, (1, 2)), "a": spaces.Box(0, 2, ())}),
            ActionSpec("box", (3,), (), (0.0, -1.0, -1.0), (2.0, 1.0, 1.0)),
        ),
        (spaces.Box(0, 9, (2,), np.uint8), ActionSpec("box", (2,), (), (0.0,) * 2, (9.0,) * 2)),
        (spaces.Box(-np.inf, np.inf, (), np.int64), ActionSpec("box", (), (), (-MOST,), (MOST,))),
        (
            GAME,
            ActionSpec("hybrid", (6,), (2, 2, 3), (0.0, -1.0, 0.0), (9.0, 1.0, 512.0)),
        ),
    ],
)  # fmt: skip
def test_a_space_becomes_choices_and_numbers(space, expected):
    # Dict sorts its keys where they are given as a dict before Gymnasium 1.3
    spec = NativeActions(space).spec
    plain = msgspec.structs.replace(spec, start=(), native_shape=(), parts=(), low=(), high=())
    assert plain == msgspec.structs.replace(expected, low=(), high=())
    assert sorted(zip(spec.low, spec.high, strict=True)) == sorted(
        zip(expected.low, expected.high, strict=True)
    )
    assert msgspec.json.decode(msgspec.json.encode(spec), type=ActionSpec) == spec


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Text(5), "the action space Text"),
        (spaces.Dict({"say": spaces.Text(5), "go": spaces.Discrete(2)}), "leaf 'say' of the"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2)))), "leaf '1'"),
        (spaces.Dict({}), "no elements"),
        (spaces.Box(0, 1, (0,)), "no elements"),
    ],
)
def test_other_spaces_are_refused_by_name(space, words):
    with pytest.raises(EnvironmentFault, match=words) as caught:
        NativeActions(space)
    assert "\n" not in str(caught.value)


def test_an_action_is_nested_as_its_space():
    native = NativeActions(GAME)
    order = list(GAME.spaces)  # of the leaves: Gymnasium's own
    numbers = {"move": [0.5, 40.0], "menu": [3.6]}
    flat = [1, 0, 2, *(number for key in order for number in numbers.get(key, []))]
    action = native(np.array(flat))
    assert action["keys"].tolist() == [1, 0]
    assert action["menu"][0] == 1
    assert action["menu"][1].tolist() == [4]
    assert action["move"].tolist() == [0.5, 40.0]
    assert GAME.contains(action)


FLOATS = st.floats(-1e38, 1e38, width=32)
DTYPES = st.sampled_from(
    [np.float32, np.float64, np.float16, np.int8, np.uint8, np.int32, np.int64]
)


@st.composite
def boxes(draw):
    dtype = np.dtype(draw(DTYPES))
    shape = tuple(draw(st.lists(st.integers(1, 2), max_size=2)))
    count = int(np.prod(shape, dtype=int))
    if dtype.kind == "f":
        most = 6e4 if dtype == np.float16 else 1e300 if dtype == np.float64 else 1e38
        number = st.floats(-most, most) | st.sampled_from([-np.inf, np.inf, 0.1, -0.1, 1e-3])
    else:
        info = np.iinfo(dtype)
        number = st.integers(int(info.min), int(info.max)) | st.sampled_from([info.min, info.max])
    pairs = [sorted(draw(st.tuples(number, number))) for _ in range(count)]
    low = np.array([low if low < np.inf else 0 for low, _ in pairs], dtype).reshape(shape)
    high = np.array([high if high > -np.inf else 0 for _, high in pairs], dtype).reshape(shape)
    return spaces.Box(low, np.maximum(low, high), shape, dtype.type)


leaves = st.one_of(
    st.builds(lambda n, s: spaces.Discrete(n, start=s), st.integers(1, 9), st.integers(-5, 5)),
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.just(spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 1], [-2, 5]])),
    (st.integers(1, 4) | st.tuples(st.integers(1, 2), st.integers(1, 2))).map(spaces.MultiBinary),
    boxes(),
)
any_space = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.text("abc", min_size=1), inner, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(space=any_space, seed=st.integers(0, 99), scale=st.sampled_from([0.5, 1.0, 1e4, 1e30]))
def test_what_reaches_an_environment_lies_in_its_space(space, seed, scale):
    """Any output of any head, here and through the pipe to an isolated environment."""
    native, rng = NativeActions(space), np.random.default_rng(seed)
    spec = native.spec
    row = [*(rng.integers(size) for size in spec.sizes), *(scale * rng.normal(size=len(spec.low)))]
    kind = {"box": "scaled_gaussian", "hybrid": "hybrid"}.get(spec.kind, "categorical")
    travelled = np.array(row, spec.leaf.dtype).reshape(spec.leaf.shape)
    for given_action in (
        to_environment(Head(kind), spec, travelled),
        random_action(spec, None, rng),
    ):
        assert space.contains(native(given_action))
        piped = _action_from(action_bytes(given_action, spec), spec)
        assert space.contains(native(piped))


@given(space=any_space, seed=st.integers(0, 99))
def test_a_sample_of_gymnasium_keeps_its_choices(space, seed):
    """Gymnasium's own flattening of the choices, as the oracle of their order."""
    native, rng = NativeActions(space), np.random.default_rng(seed)
    row = [*(rng.integers(size) for size in native.spec.sizes), *native.spec.low]
    back = native(np.array(row, np.float64)) if row else None
    assert _choices_of(space, back) == [int(number) for number in row[: len(native.spec.sizes)]]


def _choices_of(space, action):
    if isinstance(space, spaces.Dict):
        return [c for key, inner in space.spaces.items() for c in _choices_of(inner, action[key])]
    if isinstance(space, spaces.Tuple):
        return [
            c for inner, a in zip(space.spaces, action, strict=True) for c in _choices_of(inner, a)
        ]
    if isinstance(space, spaces.Box):
        return []
    hot = gymnasium.spaces.flatten(space, action)
    if isinstance(space, spaces.MultiBinary):
        return hot.tolist()
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec.flat
    return [int(part.argmax()) for part in np.split(hot, np.cumsum(sizes)[:-1])]


@pytest.mark.parametrize(
    ("mask", "row"),
    [
        ({"keys": [[1, 0], [1, 1]], "menu": (np.array([1, 0, 1]), None)}, [1, 0, 1, 1, 1, 0, 1]),
        ({"menu": (np.array([0, 0, 1], np.int8),)}, [1, 1, 1, 1, 0, 0, 1]),
        ({"keys": np.array([1, 0, 1, 1])}, [1, 0, 1, 1, 1, 1, 1]),
        (np.array([1, 0, 1, 1, 0, 0, 1]), [1, 0, 1, 1, 0, 0, 1]),
    ],
)
def test_a_mask_is_flat_or_nested_as_the_space(mask, row):
    info = {"action_mask": mask}
    environment, rows = adapted(Shown(spaces.Discrete(2), 0, GAME, info), masked=True)
    environment.reset(rows)
    assert list(GAME.spaces).index("keys") < list(GAME.spaces).index("menu")
    assert rows[MASK].tolist() == [bool(valid) for valid in row]


def test_a_mask_of_another_length_is_refused():
    info = {"action_mask": {"keys": [1, 0, 1]}}
    environment, rows = adapted(Shown(spaces.Discrete(2), 0, GAME, info), masked=True)
    with pytest.raises(EnvironmentFault, match=r"'action_mask' in info has .* \(6,\)"):
        environment.reset(rows)
