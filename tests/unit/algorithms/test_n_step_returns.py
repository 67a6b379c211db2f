"""n-step returns against the definition, however an episode was cut and mixed with others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.algorithms.n_step_returns import NStepReturns, transition_columns
from soulsai.replay.next_observations import NEXT_NUMBER, NUMBER
from soulsai.replay.ring import OWNER
from soulsai.types import MASK, ActionSpec, Leaf, Spec
from tests.unit.algorithms.learning_cases import cut, episode, part, spec


def by_definition(whole, n, gamma, last=None):
    """Rows (obs, action, ret, discount, next_obs), with steps up to ``last`` to look at."""
    last, rows = last or len(whole), []
    for t in range(last):
        k = min(n, last - t)
        ret = sum(gamma**i * float(whole.reward[t + i]) for i in range(k))
        alive = not (whole.terminated and t + k == len(whole))
        if MASK in whole.obs:
            alive = alive and whole.obs[MASK][t + k].any()
        discount = gamma**k if alive else 0.0
        rows.append((whole.obs["obs"][t], whole.action[t], ret, discount, whole.obs["obs"][t + k]))
    return rows


def check(rows, expected):
    assert len(rows["ret"]) == len(expected)
    for i, (obs, action, ret, discount, next_obs) in enumerate(expected):
        assert (rows["obs.obs"][i] == obs).all()
        assert rows["action"][i] == action
        assert rows["ret"][i] == pytest.approx(ret, abs=1e-9)
        assert rows["discount"][i] == pytest.approx(discount, abs=1e-9)
        assert (rows["next_obs.obs"][i] == next_obs).all()


def merged(parts):
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 6),
    steps=st.integers(1, 20),
    cuts=st.lists(st.integers(1, 19), max_size=5),
    end=st.sampled_from(["terminated", "truncated"]),
    masked=st.booleans(),
    at_once=st.booleans(),
)
def test_every_step_becomes_the_defined_transition_once(n, steps, cuts, end, masked, at_once):
    whole = episode(
        steps, terminated=end == "terminated", truncated=end == "truncated", masked=masked
    )
    fragments = cut(whole, [c for c in cuts if c < steps])
    returns = NStepReturns(spec(masked=masked), n=n, gamma=0.9)
    groups = [fragments] if at_once else [[f] for f in fragments]
    rows = merged([returns.assemble(group) for group in groups])
    check(rows, by_definition(whole, n, 0.9))
    assert len(returns) == 0
    columns = transition_columns(spec(masked=masked), masks=True, spans=True)
    assert set(rows) == {OWNER, NUMBER, NEXT_NUMBER, *columns}


def test_an_unfinished_episode_keeps_its_last_steps_waiting_and_flush_lets_them_go():
    whole = episode(10)
    returns = NStepReturns(spec(), n=3, gamma=0.9)
    rows = returns.assemble([part(whole, 0, 6)])
    assert len(rows["ret"]) == 4
    assert len(returns) == 2
    check(merged([rows, returns.flush()]), by_definition(whole, 3, 0.9, last=6))
    assert len(returns) == 0


def test_interleaved_episodes_do_not_touch_one_another():
    first, second = episode(12, number=1), episode(9, number=2, client="b", terminated=False)
    a, b = cut(first, [4, 5]), cut(second, [2])
    returns = NStepReturns(spec(), n=4, gamma=0.95)
    rows = merged([returns.assemble([a[0], b[0]]), returns.assemble([a[1], b[1], a[2]])])
    mine = rows["obs.obs"][:, 1] == 1
    check({name: column[mine] for name, column in rows.items()}, by_definition(first, 4, 0.95))
    assert (~mine).sum() == len(second) - 3  # the second goes on


def test_after_a_lost_fragment_what_waited_leaves_with_what_it_has_seen():
    whole = episode(12)
    returns = NStepReturns(spec(), n=3, gamma=0.9)
    rows = merged([returns.assemble([part(whole, 0, 4)]), returns.assemble([part(whole, 8, 12)])])
    before, after = by_definition(whole, 3, 0.9, last=4), by_definition(whole, 3, 0.9)[8:]
    check(rows, before + after)


def test_a_fragment_that_comes_late_is_assembled_on_its_own_and_disturbs_nobody():
    whole = episode(12)
    a, b, c = cut(whole, [4, 8])
    returns = NStepReturns(spec(), n=3, gamma=0.9)
    rows = [returns.assemble([b]), returns.assemble([a]), returns.assemble([c])]
    assert [len(r["ret"]) for r in rows] == [2, 4, 6]
    check(rows[1], by_definition(whole, 3, 0.9, last=4))
    check(rows[2], by_definition(whole, 3, 0.9)[6:])


def test_too_many_unfinished_episodes_let_the_stalest_go():
    returns = NStepReturns(spec(), n=3, gamma=0.9, episodes=2)
    for number in range(2):
        returns.assemble([part(episode(9, number=number), 0, 5)])
    rows = returns.assemble([part(episode(9, number=2), 0, 5)])
    assert rows["obs.obs"][:, 1].tolist() == [2, 2, 2, 0, 0]
    assert len(returns) == 4


def test_where_nothing_may_be_done_nothing_more_is_earned():
    whole = episode(5, terminated=False, truncated=True, masked=True)
    whole.obs[MASK][5] = False
    rows = NStepReturns(spec(masked=True), n=2, gamma=0.9).assemble([whole])
    assert rows["discount"].tolist() == pytest.approx([0.81, 0.81, 0.81, 0, 0])


def test_nothing_in_nothing_out():
    rows = NStepReturns(spec(), n=3, gamma=0.9).assemble([])
    assert rows["obs.obs"].shape == (0, 2)


def test_the_waiting_steps_are_saved_and_restored():
    whole = episode(20, masked=True)
    a, b, c = cut(whole, [3, 4])
    first, second = (NStepReturns(spec(masked=True), n=5, gamma=0.9) for _ in range(2))
    first.assemble([a])
    first.assemble([b])
    second.load_state_dict(first.state_dict())
    for one, other in zip(first.assemble([c]).values(), second.assemble([c]).values(), strict=True):
        assert (one == other).all()


def test_floats_are_kept_in_single_precision_and_actions_as_they_travel():
    columns = transition_columns(spec())
    assert columns["obs.obs"].dtype == "<f4"
    assert columns["action"].dtype == "|u1"
    box = ActionSpec("box", (2,), low=(-1.0, -1.0), high=(1.0, 1.0))
    assert transition_columns(Spec({"obs": Leaf((2,), "<f4")}, box))["action"] == Leaf((2,), "<f4")
