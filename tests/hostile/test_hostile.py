"""The short form of the attack: nothing ends, and nothing of the attacker is left."""

import contextlib

import numpy as np

from soulsai.testing.policy import toy_run
from soulsai.types import EnvironmentOffer, Episode, Fragment, Hello
from soulsai.wire.codec import decode_entry
from soulsai.wire.limits import MessageLimits
from soulsai.wire.protocols import Entry, Position
from tests.chaos.proxy import ProxyLinks

from .__main__ import free_port
from .messages import Extremes
from .program import Result, faults, run

RUN, PROGRAM, _ = toy_run(EnvironmentOffer("soulsai.testing:ToyEnv"))


def decoded(seed, entries):
    """Return messages as a training node decodes them."""
    extremes = Extremes(RUN, seed, newest=(3, 7))
    for _ in range(entries):
        data, count = extremes.entry()
        messages = decode_entry(Entry("villain", Position(1, 1), data), RUN)
        assert len(messages) == count
        yield from messages


def test_messages_are_valid_and_reach_the_edges_of_their_fields():
    limits, found = MessageLimits(RUN, PROGRAM.head), []
    for message in decoded(1, 200):
        found.append(message)
        if isinstance(message, Fragment | Episode):
            limits.check(message)
        elif isinstance(message, Hello):
            limits.hello(message)
    kinds = {type(message).__name__ for message in found}
    assert kinds == {"Fragment", "Episode", "Heartbeat", "Hello"}
    fragments = [message for message in found if isinstance(message, Fragment)]
    assert max(fragment.clock for fragment in fragments) == 2**48 - 1
    assert max(fragment.start for fragment in fragments) == 2**32 - 1
    assert max(np.abs(fragment.reward).max() for fragment in fragments) == 1e6
    assert max(len(message.info) for message in found if isinstance(message, Episode)) == 32


def test_equal_seeds_make_equal_messages():
    first, again, other = (Extremes(RUN, seed).entry() for seed in (5, 5, 6))
    assert first == again != other


def test_half_a_minute_of_attack_ends_nothing_and_leaves_nothing(tmp_path):
    result, said = Result(seed=2), []
    with contextlib.closing(ProxyLinks()) as links:
        run(
            tmp_path, links, result, seconds=1.0, least=1000, per_second=1000.0, page=free_port(),
            say=said.append, clients=2, solo=2.0, attack=12.0, learn=0,
            recoveries=("epochs",), sets=("dqn.learning_starts=100",),
        )  # fmt: skip
    # Shares of a busy machine are no figures; the long form measures them.
    assert faults(result, least=1000, share=0.0, learnt=False) == [], said
    assert result.attacked > 0.0
    assert result.rejected
    assert len(result.attacks) >= 3
