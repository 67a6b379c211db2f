"""A message that its sender has checked is admitted, over the codec, whatever its numbers are."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soulsai.errors import Rejected
from soulsai.heads import act, largest_action
from soulsai.training_node.admission import Admission
from soulsai.types import (
    MASK,
    PROTOCOL,
    ActionSpec,
    EnvironmentOffer,
    Episode,
    Fragment,
    Head,
    Leaf,
    RunSpec,
    Spec,
)
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.limits import MessageLimits
from soulsai.wire.protocols import Entry, Position

STEPS = 3
NUMBERS = st.floats(width=32) | st.sampled_from([0.7, -0.7, 0.1, 1e6, -1e6, 1e30, 1e31])
OBS = {"obs": Leaf((2,), "<f4"), "kind": Leaf((), "|u1", categories=3), MASK: Leaf((4,), "|b1")}


def run_spec(action, largest, obs):
    offer = EnvironmentOffer("Env-v0", largest_reward=largest)
    extras = {"logp": Leaf((), "<f4")}
    return RunSpec("run", PROTOCOL, PROTOCOL, offer, Spec(obs, action), "ppo", "", extras=extras)


def columns(draw, leaf, rows):
    shape, dtype = (rows, *leaf.shape), np.dtype(leaf.dtype)
    numbers = NUMBERS if dtype.kind == "f" else st.integers(0, 1 if dtype.kind == "b" else 5)
    return draw(arrays(dtype, shape, elements=numbers))


@st.composite
def messages(draw):
    """A run, a head, and a fragment and an episode of any numbers."""
    action = draw(
        st.sampled_from(
            [
                ActionSpec("discrete", (), (4,)),
                ActionSpec("multidiscrete", (2,), (2, 2)),
                ActionSpec("box", (2,), (), (-1.0, 2e9), (1.0, 3e9)),
                ActionSpec("hybrid", (3,), (1, 3), (-1.0,), (1.0,)),
            ]
        )
    )
    obs = {name: leaf for name, leaf in OBS.items() if action.sizes or name != MASK}
    spec = run_spec(action, draw(st.sampled_from([0.7, 1e6, 1e12])), obs)
    kind = draw(
        st.sampled_from(
            ["categorical", "epsilon_greedy"]
            if action.sizes
            else ["gaussian", "scaled_gaussian", "squashed"]
        )
    )
    one = Fragment(
        client="c",
        epoch=1,
        episode=0,
        start=0,
        clock=0,
        generation=1,
        version=1,
        obs={name: columns(draw, leaf, STEPS + 1) for name, leaf in obs.items()},
        action=columns(draw, action.leaf, STEPS),
        reward=columns(draw, Leaf((), "<f4"), STEPS),
        terminated=draw(st.booleans()),
        truncated=False,
        greedy=draw(st.booleans()),
        epsilon=draw(st.sampled_from([0.0, 0.1, 0.4, 1.0])),
        extras={"logp": columns(draw, Leaf((), "<f4"), STEPS)},
    )
    floats = st.floats() | NUMBERS
    other = Episode(
        1, 1, 0, draw(floats), draw(st.integers(0, 10)), draw(floats), terminated=True,
        greedy=False, epsilon=draw(floats), info={"score": draw(floats)},
    )  # fmt: skip
    return spec, Head(kind), one, other


def refusals(spec, head, *sent):
    """Return the reasons for which the training node refuses messages that came over the wire."""
    data = pack([encode_message(message, spec) for message in sent])
    judge = Admission(
        spec,
        head,
        lambda entry: decode_entry(entry, spec),
        marks={},
        newest=(1, 1),
        now=lambda: 1.0,
    )
    return [reason for reason, _ in judge.admit(Entry("c", Position(1, 1), data)).refusals]


@given(messages())
def test_the_training_node_admits_all_that_a_client_sends(case):
    spec, head, *sent = case
    for message in sent:
        expected = []
        try:
            MessageLimits(spec, head).check(message)
        except Rejected as error:
            expected = [error.reason]
        found = refusals(spec, head, message)
        assert found == expected or (expected and found == ["header"])  # which the codec refuses


@pytest.mark.parametrize("largest", [0.1, 0.7, 1e6, 5e6])
def test_rewards_at_the_limit_are_admitted_and_so_is_their_sum(largest):
    """Rewards travel as float32, and their sum as float64."""
    action, obs = ActionSpec("discrete", (), (4,)), {"obs": OBS["obs"]}
    spec, head = run_spec(action, largest, obs), Head("categorical")
    one = Fragment(
        client="c", epoch=1, episode=0, start=0, clock=0, generation=1, version=1,
        obs={"obs": np.zeros((STEPS + 1, 2), np.float32)}, action=np.zeros(STEPS, np.uint8),
        reward=np.full(STEPS, largest, np.float32), terminated=True, truncated=False,
        extras={"logp": np.zeros(STEPS, np.float32)},
    )  # fmt: skip
    other = Episode(1, 1, 0, sum([largest] * STEPS), STEPS, 1.0, True, False, 0.0)
    for message in (one, other):
        MessageLimits(spec, head).check(message)
    assert refusals(spec, head, one, other) == []
    beyond = msgspec.structs.replace(one, reward=np.full(STEPS, 1.001 * largest, np.float32))
    with pytest.raises(Rejected, match="reward"):
        MessageLimits(spec, head).check(beyond)
    assert refusals(spec, head, beyond) == ["reward"]


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (2e9, 3e9), (-3e38, 3e38)])
@pytest.mark.parametrize("mean", [0.0, 1e9, -3e38])
def test_no_head_draws_an_action_that_cannot_be_sent(bounds, mean):
    action = ActionSpec("box", (1,), (), (bounds[0],), (bounds[1],))
    outputs = {
        "mean": np.full((9, 1), mean, np.float32),
        "log_std": np.full((9, 1), 80, np.float32),
    }
    for kind in ("gaussian", "scaled_gaussian", "squashed"):
        head = Head(kind)
        spec = run_spec(action, 1.0, {"obs": OBS["obs"]})
        drawn, extras = act(
            head, action, outputs, mask=None, greedy=np.zeros(9, np.bool_), epsilon=np.zeros(9),
            random=0.5, rng=np.random.default_rng(0),
        )  # fmt: skip
        assert np.abs(drawn).max() <= np.float32(largest_action(head, action))
        one = Fragment(
            client="c", epoch=1, episode=0, start=0, clock=0, generation=1, version=1,
            obs={"obs": np.zeros((10, 2), np.float32)}, action=drawn,
            reward=np.zeros(9, np.float32), terminated=True, truncated=False, extras=extras,
        )  # fmt: skip
        assert refusals(spec, head, one) == []
