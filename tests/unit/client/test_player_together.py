"""Steps recorded together are those recorded one by one: the same messages in the same order."""

import gymnasium
import msgspec
import numpy as np
import pytest

from soulsai.client.player import _TOGETHER as TOGETHER
from soulsai.testing import BoxToy, DictToy, MaskedToy, MultiDiscreteToy
from soulsai.types import Fragment
from tests.unit.client.player_cases import Diary, stage
from tests.unit.client.test_player_faults import HANG, SLOW, Fragile

HEADS = [
    (Diary, "epsilon_greedy", False),
    (Diary, "categorical", True),
    (DictToy, "epsilon_greedy", False),
    (MultiDiscreteToy, "epsilon_greedy", False),
    (MultiDiscreteToy, "categorical", False),
    (BoxToy, "squashed", False),
    (BoxToy, "scaled_gaussian", True),
]


class Taught(gymnasium.Wrapper):
    """A person chooses action 2 in every third step."""

    taken = 0

    def step(self, action):
        self.taken += 1
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self.taken % 3 == 0:
            info |= {"intervention": 2}
        return obs, reward, terminated, truncated, info


def plain(message):
    """Return a message as values that can be compared."""
    fields = msgspec.structs.asdict(message)

    def value(each):
        if isinstance(each, np.ndarray):
            return each.dtype.str, each.shape, each.tobytes()
        return {key: value(one) for key, one in each.items()} if isinstance(each, dict) else each

    return type(message).__name__, {name: value(each) for name, each in fields.items()}


def played(envs, steps=300, **options):
    _, line, go, progress = stage(envs, **options)
    go(steps)
    return [plain(message) for message in line.messages], progress


def both(make, **options):
    """Play twice, and return the messages of both ways, and the progress."""
    together, after = played(make(), together=True, **options)
    alone, before = played(make(), together=False, **options)
    assert after == before
    return together, alone


@pytest.mark.parametrize(("kind", "head", "memory"), HEADS)
def test_each_head_sends_the_same_to_the_last_bit(kind, head, memory):
    masked = {"masked": True} if kind is MaskedToy else {}
    options = {"memory": memory, "eval_fraction": 0.2, "exploration": {"random": 0.3}, **masked}
    together, alone = both(lambda: [kind() for _ in range(TOGETHER + 3)], kind=head, **options)
    assert together == alone
    assert sum(name == Fragment.__name__ for name, _ in together) > 40


def test_episodes_of_different_lengths_end_and_begin_in_the_same_order():
    together, alone = both(
        lambda: [Diary(number, length=1 + number % 7) for number in range(TOGETHER + 2)]
    )
    assert together == alone
    episodes = [fields for name, fields in together if name == "Episode"]
    assert len(episodes) > 60


def test_a_fault_costs_the_others_nothing():
    def environments():
        others = [Diary(number, length=9) for number in range(TOGETHER)]
        return [Fragile(Diary(length=9), steps={5: HANG, 30: SLOW}), *others]

    together, alone = both(environments)

    def of(messages, number):
        """Return the observations of one environment, in order."""
        obs = [fields["obs"]["obs"][2] for name, fields in messages if name == "Fragment"]
        return [data for data in obs if np.frombuffer(data, "<f4")[0] == number]

    for number in range(1, TOGETHER):
        assert of(together, number) == of(alone, number)
    assert sorted(map(str, together)) == sorted(map(str, alone))


def test_what_a_person_does_is_recorded():
    together, alone = both(
        lambda: [Taught(Diary(number)) for number in range(TOGETHER)], interventions=True
    )
    assert together == alone
    marked = [fields for name, fields in together if fields.get("intervened")]
    assert len(marked) > 40


def test_games_in_real_time_and_few_environments_are_stepped_one_by_one():
    def chosen(count, **options):
        player, *_ = stage([Diary() for _ in range(count)], **options)
        return player._together

    assert chosen(TOGETHER)
    assert not chosen(TOGETHER - 1)
    assert not chosen(TOGETHER, realtime=True)
    assert not chosen(TOGETHER, together=False)
