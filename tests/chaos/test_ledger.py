"""The ledger itself: what it finds in numbers that are known, and what it cannot be told."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.client.environment import AdaptedEnvironment
from soulsai.types import Episode, Fragment, Leaf
from soulsai.wire.codec import encode_message, pack
from soulsai.wire.protocols import Position

from . import stamps
from .faults import KINDS, plan
from .ledger import NONE, Claims, RecordingWire, compare, read
from .watch import gap, rate, windows


def claims(sent, acked):
    return Claims(np.array(sent, np.int64), np.array(acked, np.int64))


def test_what_is_held_once_and_was_sent_is_right():
    found = compare(claims([1, 2, 3, 4], [1, 2, 3]), np.array([1, 2, 3, 4]), 4)
    assert (found.accepted, found.acked, found.acked_lost) == (4, 3, 0)
    assert (found.double_counted, found.never_sent, found.miscounted) == (0, 0, 0)


def test_what_was_acknowledged_and_is_not_held_is_lost():
    assert compare(claims([1, 2, 3], [1, 2]), np.array([1, 3]), 2).acked_lost == 1


def test_what_was_sent_and_never_acknowledged_may_be_missing():
    assert compare(claims([1, 2, 3], [1, 2]), np.array([1, 2]), 2).acked_lost == 0


def test_what_is_held_twice_is_counted_twice():
    found = compare(claims([1, 2], [1, 2]), np.array([1, 1, 1, 2]), 4)
    assert (found.double_counted, found.accepted, found.miscounted) == (2, 2, 0)


def test_what_nobody_sent_is_no_experience():
    assert compare(claims([1], [1]), np.array([1, 7]), 2).never_sent == 1


def test_a_counter_that_differs_from_what_is_held_is_wrong():
    assert compare(claims([1], [1]), np.array([1]), 2).miscounted == 1


@given(st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)), st.lists(st.integers(0, 99)))
def test_all_differences_are_those_of_sets(sent, acked, held):
    acked &= sent
    found = compare(claims(sorted(sent), sorted(acked)), np.array(held, np.int64), len(held))
    assert found.acked_lost == len(acked - set(held))
    assert found.double_counted == len(held) - len(set(held))
    assert found.never_sent == len(set(held) - sent)


def test_no_two_steps_have_the_same_name(monkeypatch):
    seen = []
    for client, life in ((1, 1), (1, 2), (2, 1)):
        monkeypatch.setenv(stamps.CLIENT, str(client))
        monkeypatch.setenv(stamps.LIFE, str(life))
        for env in (stamps.Stamped(), stamps.Stamped()):
            played = AdaptedEnvironment(env, "stamped", mask_key="mask", masked=False)
            (name,) = played.spec.obs
            rows = {name: np.zeros(4, np.float32)}
            for _ in range(3):
                played.reset(rows)
                seen.append(rows[name].copy())
                for _ in range(5):
                    played.step(np.uint8(0), rows)
                    seen.append(rows[name].copy())
    found = stamps.names(np.array(seen))
    assert len(set(found.tolist())) == len(found) == 3 * 2 * 3 * 6
    assert set(stamps.owners(found).tolist()) == {1, 2}


class Wire:
    """Takes entries, or fails when told."""

    def __init__(self, spec):
        self._spec = spec
        self.fails = False

    def spec(self):
        return self._spec

    def push(self, entries, retry=False):
        if self.fails:
            raise ConnectionError


@pytest.fixture
def spec(monkeypatch):
    from soulsai.types import PROTOCOL, ActionSpec, EnvironmentOffer, RunSpec, Spec

    seen = Spec({"obs": Leaf((4,), "<f4")}, ActionSpec("discrete", sizes=(2,)))
    return RunSpec("run", PROTOCOL, PROTOCOL, EnvironmentOffer("stamped"), seen, "dqn", "0" * 64)


def fragment(spec, first, steps, step=1):
    stamps = np.zeros((steps + 1, 4), np.float32)
    stamps[:, 2] = first + step * np.arange(steps + 1)
    message = Fragment(
        "one", 5, 0, 0, 0, 1, 1, {"obs": stamps}, np.zeros(steps, np.uint8),
        np.zeros(steps, np.float32), terminated=False, truncated=False,
    )  # fmt: skip
    return encode_message(message, spec)


def test_a_ledger_says_what_was_sent_and_what_was_acknowledged(tmp_path, spec):
    wire = Wire(spec)
    recording = RecordingWire(wire, "one", tmp_path / "ledger")
    recording.spec()
    note = encode_message(Episode(1, 1, 0, 0.0, 1, 0.1, True, False, 0.0), spec)
    recording.push([(Position(5, 1), pack([fragment(spec, 10, 3), note]))])
    wire.fails = True
    with pytest.raises(ConnectionError):
        recording.push([(Position(5, 2), pack([fragment(spec, 20, 2)]))])
    found = read([tmp_path / "ledger"])
    assert found.sent.tolist() == [10, 11, 12, 20, 21]
    assert found.acked.tolist() == [10, 11, 12]
    wire.fails = False
    recording.push([(Position(5, 2), pack([fragment(spec, 20, 2)]))], retry=True)
    with (tmp_path / "ledger").open("ab") as file:
        file.write(json.dumps({"is": "acked"}).encode()[:9])
    found = read([tmp_path / "ledger"])
    assert found.acked.tolist() == found.sent.tolist() == [10, 11, 12, 20, 21]
    assert found.entries == 2


def test_a_ledger_refuses_steps_that_do_not_follow_one_another(tmp_path, spec):
    recording = RecordingWire(Wire(spec), "one", tmp_path / "ledger")
    recording.spec()
    with pytest.raises(ValueError, match="follow one another"):
        recording.push([(Position(5, 1), pack([fragment(spec, 10, 3, step=2)]))])


def test_no_ledger_claims_nothing(tmp_path):
    assert read([]).acked is NONE


def test_a_plan_repeats_itself_and_differs_by_seed():
    assert plan(3, 50, 600.0, 3) == plan(3, 50, 600.0, 3)
    assert plan(3, 50, 600.0, 3) != plan(4, 50, 600.0, 3)


@given(st.integers(0, 1000))
def test_a_plan_is_in_order_and_no_crash_loop(seed):
    planned = plan(seed, 50, 600.0, 3)
    assert len(planned) == 50
    assert all(fault.kind in KINDS and fault.client < 3 for fault in planned)
    for before, after in pairwise(planned):
        assert before.at + before.seconds <= after.at
    for victim in ("learner", "telemetry"):
        kills = [f.at for f in planned if f.kind.startswith(f"kill {victim}")]
        assert all(c - a > 30.0 for a, c in zip(kills, kills[2:], strict=False))


def test_a_gap_lasts_until_something_comes_in_from_whom_it_concerns():
    seen = [(1.0, 0, "a"), (4.0, 9, "b"), (6.0, 12, "a")]
    assert gap(seen, 2.0) == 2.0
    assert gap(seen, 2.0, client="a") == 4.0
    assert gap(seen, 7.0) is None


def test_windows_lie_between_faults_and_count_what_comes_in():
    seen = [(float(at), 10 * at, "a") for at in range(40)]
    assert windows(seen, [], 0.0, 35.0) == [90, 100, 100]
    assert windows(seen, [(12.0, 15.0)], 0.0, 30.0) == [90, 100]
    quiet = [(at, 10 * at if at < 20 else 200, "a") for at in map(float, range(40))]
    assert windows(quiet, [], 0.0, 40.0)[-1] == 0


def test_a_learner_that_goes_back_makes_progress_again():
    seen = [(0.0, 0, "a"), (1.0, 500, "a"), (2.0, 300, "a"), (3.0, 350, "a")]
    assert windows(seen, [], 0.0, 10.0) == [550]


def test_a_rate_is_that_between_episodes():
    seen = [(0.0, 0, "a"), (10.0, 100, "a"), (14.0, 180, "b"), (12.0, 150, "a"), (20.0, 900, "a")]
    assert rate(seen, 9.0, 15.0) == 20.0
