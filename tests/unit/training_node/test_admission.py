"""What is let in, what is refused and under which reason, and what is counted as lost."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.errors import Rejected
from soulsai.training_node.admission import AHEAD_MS, LARGEST_SEQ, Admission, Mark
from soulsai.types import (
    PROTOCOL,
    ActionSpec,
    EnvironmentOffer,
    Episode,
    Fragment,
    Head,
    Heartbeat,
    Hello,
    Leaf,
    RunSpec,
    Spec,
)
from soulsai.wire.limits import LARGEST_OBSERVATION
from soulsai.wire.protocols import Entry, Position

NOW = 1_700_000_000.0
EPOCH = int(NOW * 1000)
DISCRETE = ActionSpec("discrete", (), (4,))
MULTI = ActionSpec("multidiscrete", (2,), (2, 3))
BOX = ActionSpec("box", (2,), (), (-1.0, -1.0), (1.0, 1.0))
HYBRID = ActionSpec("hybrid", (3,), (2, 3), (-2e3,), (2e3,))
OBS = {"obs": Leaf((8,), "<f4"), "kind": Leaf((), "|u1", categories=3)}


def run_spec(action=DISCRETE, obs=OBS, **more):
    return RunSpec(
        "run", PROTOCOL, PROTOCOL, EnvironmentOffer("Env-v0"), Spec(obs, action), "dqn", "", **more
    )


def admission(spec, *, head="epsilon_greedy", messages=None, marks=None):
    """Admit entries whose data are keys of ``messages``."""

    def decode(entry):
        found = messages[entry.data]
        if isinstance(found, Exception):
            raise found
        return found

    return Admission(spec, Head(head), decode, marks=marks or {}, newest=(2, 5), now=lambda: NOW)


def fragment(steps=4, *, action=None, clock=0, generation=2, version=5, start=0, **obs):
    seen = {
        "obs": np.zeros((steps + 1, 8), "f4"),
        "kind": np.zeros(steps + 1, "u1"),
        **obs,
    }
    return Fragment(
        client="c",
        epoch=EPOCH,
        episode=0,
        start=start,
        clock=clock,
        generation=generation,
        version=version,
        obs=seen,
        action=np.zeros(steps, "u1") if action is None else action,
        reward=np.ones(steps, "f4"),
        terminated=False,
        truncated=False,
    )


def admit(spec, *messages, head="epsilon_greedy", position=(EPOCH, 1)):
    judge = admission(spec, head=head, messages={b"": list(messages)})
    return judge.admit(Entry("c", Position(*position), b""))


def reasons(arrival):
    return [refusal.reason for refusal in arrival.refusals]


def changed(**fields):
    return msgspec.structs.replace(fragment(), **fields)


def spoilt(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def summary(**fields):
    """Return the summary of an episode of four steps."""
    said = Episode(2, 5, 0, 4.0, 4, 0.1, True, False, 0.0, client="c", epoch=EPOCH)
    return msgspec.structs.replace(said, **fields)


def test_what_makes_sense_is_let_in_untouched():
    whole = msgspec.structs.replace(fragment(), terminated=True)
    sent = whole, Heartbeat(4, 1, 0, 0, 5), summary(reward=4.0)
    arrival = admit(run_spec(), *sent)
    assert arrival.fragments == (sent[0],)
    assert arrival.heartbeat is sent[1]
    assert arrival.episodes == (sent[2],)
    assert not arrival.refusals
    assert arrival.steps == 4
    assert arrival.mark.position == (EPOCH, 1)


ZEROS = np.zeros((5, 8), "f4")
BAD = {
    "nan in obs": ("finite", fragment(obs=spoilt(ZEROS, (2, 3), np.nan))),
    "inf in the last obs": ("finite", fragment(obs=spoilt(ZEROS, (4, 0), np.inf))),
    "nan reward": ("reward", changed(reward=np.array([0, np.nan, 0, 0], "f4"))),
    "inf reward": ("reward", changed(reward=np.array([0, 0, 0, -np.inf], "f4"))),
    "huge reward": ("reward", changed(reward=np.array([0, 0, 2e6, 0], "f4"))),
    "category": ("category", fragment(kind=np.array([0, 0, 0, 0, 3], "u1"))),
    "action": ("action", fragment(action=np.array([0, 4, 0, 0], "u1"))),
    "later version": ("version", fragment(version=6)),
    "later generation": ("version", fragment(generation=3, version=1)),
    "clock": ("counter", changed(clock=2**60)),
    "episode's reward": ("episode", Episode(2, 5, 0, np.nan, 4, 0.1, True, False, 0.0)),
    "episode's info": ("episode", Episode(2, 5, 0, 0, 4, 0.1, True, False, 0.0, {"x": np.inf})),
    "episode's steps": ("episode", Episode(2, 5, 0, 1.0, 0, 0.1, True, False, 0.0)),
    "episode's epsilon": ("episode", Episode(2, 5, 0, 1.0, 4, 0.1, True, False, 1.5)),
    "episode's version": ("version", Episode(2, 6, 0, 1.0, 4, 0.1, True, False, 0.0)),
    "hello's spec": ("run", Hello("run", PROTOCOL, "x", "Env-v0", 1, 7)),
    "hello's run": ("run", Hello("other", PROTOCOL, "x", "Env-v0", 1, run_spec().crc)),
    "hello's protocol": ("protocol", Hello("run", 99, "x", "Env-v0", 1, run_spec().crc)),
    "hello's environments": ("hello", Hello("run", PROTOCOL, "x", "Env-v0", 0, run_spec().crc)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_refused_alone(name):
    reason, message = BAD[name]
    good = fragment(clock=4)
    arrival = admit(run_spec(), message, good)
    assert reasons(arrival) == [reason]
    assert arrival.fragments == (good,)


def after(whole, *, ended=False, **obs):
    """Return what follows a fragment in its episode."""
    first = {name: np.concatenate((rows[-1:], rows[1:])) for name, rows in whole.obs.items()}
    end = {"clock": whole.clock + len(whole), "start": whole.start + len(whole)}
    return msgspec.structs.replace(whole, obs={**first, **obs}, terminated=ended, **end)


def test_a_fragment_begins_with_what_the_one_before_saw_last():
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype("f4")
    first = fragment(obs=rows)
    second = after(first)
    assert not admit(run_spec(), first, second, after(second, ended=True)).refusals
    jumped = after(first, obs=rows + 1)
    assert reasons(admit(run_spec(), first, jumped)) == ["continuity"]
    later = msgspec.structs.replace(jumped, start=9, clock=9)  # what was between them is lost
    assert not admit(run_spec(), first, later).refusals


def test_no_step_is_told_twice_under_another_number():
    first = fragment()
    again = msgspec.structs.replace(first, clock=4)
    assert reasons(admit(run_spec(), first, first)) == ["overlap"]
    assert reasons(admit(run_spec(), first, again)) == ["overlap"]
    over = msgspec.structs.replace(first, terminated=True)
    assert reasons(admit(run_spec(), over, after(over))) == ["overlap"]
    other = msgspec.structs.replace(again, episode=1)
    assert not admit(run_spec(), first, other).refusals


def test_more_chance_than_the_run_asks_for_is_refused():
    base = Head("epsilon_greedy").epsilon_base
    assert not admit(run_spec(), changed(epsilon=base)).refusals
    assert reasons(admit(run_spec(), changed(epsilon=base + 0.01))) == ["epsilon"]
    assert reasons(admit(run_spec(), changed(epsilon=0.1, greedy=True))) == ["epsilon"]


def test_older_weights_are_welcome():
    arrival = admit(
        run_spec(), fragment(version=1), fragment(generation=1, version=99, clock=4, start=4)
    )
    assert len(arrival.fragments) == 2


def masked(mask, action):
    spec = run_spec(obs={"mask": Leaf((len(mask[0]),), "|b1")}, action=action)
    return spec, np.array(mask, bool)


def test_the_mask_of_a_step_must_allow_its_action():
    spec, mask = masked([[1, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0]], DISCRETE)
    allowed = msgspec.structs.replace(
        fragment(2, action=np.array([2, 3], "u1")), obs={"mask": mask}
    )
    assert not admit(spec, allowed).refusals
    forbidden = msgspec.structs.replace(allowed, action=np.array([2, 0], "u1"))
    assert reasons(admit(spec, forbidden)) == ["mask"]


def test_where_the_mask_allows_nothing_any_action_passes():
    spec, mask = masked([[0, 0, 0, 0], [0, 0, 0, 0]], DISCRETE)
    only = msgspec.structs.replace(fragment(1), obs={"mask": mask})
    assert not admit(spec, only).refusals


def test_each_component_has_its_own_choices_and_mask():
    spec, mask = masked([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], MULTI)

    def sent(*action):
        one = fragment(1, action=np.array([action], "u1"))
        return reasons(admit(spec, msgspec.structs.replace(one, obs={"mask": mask})))

    assert sent(0, 2) == []
    assert sent(1, 2) == ["mask"]
    assert sent(0, 1) == ["mask"]
    assert sent(0, 3) == ["action"]
    assert sent(2, 0) == ["action"]


@pytest.mark.parametrize(
    ("head", "value", "refused"),
    [
        ("squashed", 1.0, []),
        ("squashed", 1.1, ["action"]),
        ("gaussian", 1.1, []),
        ("gaussian", np.nan, ["action"]),
        ("gaussian", 1e9, ["action"]),
    ],
)
def test_actions_of_a_box(head, value, refused):
    action = np.array([[0, 0], [0, value]], "f4")
    assert reasons(admit(run_spec(BOX), fragment(2, action=action), head=head)) == refused


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ([1, 2, 0.5], []),
        ([1, 2, -1e5], []),
        ([1, 3, 0.5], ["action"]),
        ([-1, 2, 0.5], ["action"]),
        ([0.5, 2, 0.5], ["action"]),
        ([np.nan, 2, 0.5], ["action"]),
        ([1e30, 2, 0.5], ["action"]),
        ([1, 2, np.nan], ["action"]),
        ([1, 2, -1e9], ["action"]),
        ([0, 2, 0.5], ["mask"]),
    ],
)
def test_choices_with_numbers(value, refused):
    spec, mask = masked([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]], HYBRID)
    sent = fragment(1, action=np.array([value], "f4"))
    sent = msgspec.structs.replace(sent, obs={"mask": mask})
    assert reasons(admit(spec, sent, head="hybrid")) == refused


@pytest.mark.parametrize("sign", [1, -1])
def test_an_absurd_observation_is_refused_and_a_large_one_is_not(sign):
    largest = sign * np.float32(0.99 * LARGEST_OBSERVATION)
    assert reasons(admit(run_spec(), fragment(obs=spoilt(ZEROS, (4, 0), largest)))) == []
    for absurd in (sign * 1.01 * LARGEST_OBSERVATION, sign * 3e38):
        refused = admit(run_spec(), fragment(obs=spoilt(ZEROS, (4, 0), np.float32(absurd))))
        assert reasons(refused) == ["range"]


def test_extras_and_memory_are_finite():
    nan = np.array([0, np.nan, 0, 0], "f4")
    assert reasons(admit(run_spec(), changed(extras={"logp": nan}))) == ["finite"]
    assert reasons(admit(run_spec(), changed(memory={"h": nan}))) == ["finite"]


def test_what_cannot_be_decoded_is_one_refusal_and_the_stream_goes_on():
    judge = admission(
        run_spec(), messages={b"bad": Rejected("frame", "nonsense"), b"": [fragment()]}
    )
    first = judge.admit(Entry("c", Position(EPOCH, 1), b"bad"))
    assert reasons(first) == ["frame"]
    assert first.mark.position == (EPOCH, 1)
    assert judge.admit(Entry("c", Position(EPOCH, 2), b"")).steps == 4


@pytest.mark.parametrize("position", [(EPOCH + AHEAD_MS + 1, 0), (EPOCH, LARGEST_SEQ)])
def test_a_position_that_would_lock_the_stream_is_refused_and_not_taken_over(position):
    judge = admission(run_spec(), messages={b"": [fragment()]})
    arrival = judge.admit(Entry("c", Position(*position), b""))
    assert reasons(arrival) == ["position"]
    assert arrival.mark == Mark()
    assert judge.admit(Entry("c", Position(EPOCH, 1), b"")).steps == 4


def test_what_was_taken_in_before_is_a_duplicate():
    judge = admission(run_spec(), messages={b"": [fragment()]})
    entries = [Entry("c", Position(EPOCH, seq), b"") for seq in (1, 2, 2, 1)]
    assert [judge.admit(entry).duplicate for entry in entries] == [False, False, True, True]
    judge = admission(run_spec(), messages={b"": [fragment()]}, marks=judge.marks)
    assert judge.admit(Entry("d", Position(EPOCH, 1), b"")).steps == 4  # streams are independent


def test_a_hello_begins_an_epoch_or_another_life_in_the_same_one():
    hello = Hello("run", PROTOCOL, "x", "Env-v0", 3, run_spec().crc)
    judge = admission(run_spec(), messages={b"hello": [hello], b"": [fragment()]})

    def admitted(epoch, seq, data):
        return judge.admit(Entry("c", Position(epoch, seq), data))

    assert admitted(EPOCH, 0, b"hello").hello == hello
    assert admitted(EPOCH, 1, b"").steps == 4
    assert reasons(admitted(EPOCH, 2, b"")) == ["overlap"]
    # The server's clock was set back, so it went on from the last id.
    assert admitted(EPOCH, 3, b"hello").hello == hello
    again = admitted(EPOCH, 4, b"")
    assert (again.steps, again.lost, again.mark.clock) == (4, 0, 4)
    assert reasons(admitted(EPOCH, 5, b"")) == ["overlap"]
    assert admitted(EPOCH + 1, 0, b"hello").hello == hello


@pytest.mark.parametrize(
    ("fields", "verified"),
    [
        ({}, True),
        ({"reward": 4.00001}, True),
        ({"reward": 5.0}, False),
        ({"reward": 4e6}, False),
        ({"steps": 5}, False),
        ({"episode": 1}, False),
    ],
)
def test_an_episode_agrees_with_its_fragments(fields, verified):
    first = fragment(2)
    arrival = admit(run_spec(), first, after(first, ended=True), summary(**fields))
    assert [episode.verified for episode in arrival.episodes] == [verified]


def test_an_episode_with_missing_steps_is_not_verified():
    first = fragment(2)
    late = msgspec.structs.replace(after(first, ended=True), start=3)
    arrival = admit(run_spec(), first, late, summary(steps=5))
    assert [episode.verified for episode in arrival.episodes] == [False]


def test_counters_of_a_refused_fragment_are_not_believed():
    messages = {
        b"bad": [msgspec.structs.replace(fragment(version=6), clock=2**47)],
        b"good": [fragment(clock=7)],
    }
    judge = admission(run_spec(), messages=messages)
    assert judge.admit(Entry("c", Position(EPOCH, 1), b"bad")).lost == 0
    assert judge.admit(Entry("c", Position(EPOCH, 3), b"good")).lost == 3  # and 4 are refused


def test_a_stream_that_is_read_again_admits_earlier_epochs_and_nothing_twice():
    judge = admission(run_spec(), messages={b"": [fragment()], b"more": [after(fragment())]})

    def admitted(epoch, seq, data=b""):
        return judge.admit(Entry("c", Position(epoch, seq), data))

    assert admitted(EPOCH, 1).steps == 4
    judge.read_again("c")
    assert judge.position("c") == (0, 0)
    assert admitted(EPOCH, 1).duplicate
    assert judge.position("c") == (EPOCH, 1)
    judge.read_again("c")
    set_back = admitted(EPOCH - 9, 0)
    assert set_back.mark.position == (EPOCH - 9, 0)
    assert not set_back.duplicate
    assert admitted(EPOCH, 1).duplicate
    again = admitted(EPOCH, 2, b"more")
    assert (again.steps, again.lost) == (4, 0)
    assert judge.position("c") == (EPOCH, 2)


def test_epochs_may_be_ahead_of_a_slow_clock_of_ours():
    judge = admission(run_spec(), messages={b"": [fragment()]})
    ahead = EPOCH + 3 * AHEAD_MS
    assert reasons(judge.admit(Entry("c", Position(ahead, 0), b""))) == ["position"]
    judge.server_time = ahead / 1000
    assert judge.admit(Entry("c", Position(ahead, 0), b"")).steps == 4


def test_entries_deleted_unread_while_a_client_was_kept_out_are_not_lost_on_the_way():
    messages = {
        name: [fragment(4, clock=clock, start=clock)]
        for name, clock in ((b"a", 0), (b"b", 100), (b"c", 200))
    }
    judge = admission(run_spec(), messages=messages)
    judge.admit(Entry("c", Position(EPOCH, 1), b"a"))
    judge.pass_over("c")
    after = judge.admit(Entry("c", Position(EPOCH, 5), b"b"))
    assert (after.lost, after.steps, after.refusals) == (0, 4, ())
    assert judge.admit(Entry("c", Position(EPOCH, 9), b"c")).lost == 96, "a gap after that is one"


def test_steps_dropped_by_the_client_itself_are_not_lost_on_the_way():
    messages = {b"a": [fragment(4)], b"b": [fragment(4, clock=100)]}
    judge = admission(run_spec(), messages=messages)
    judge.admit(Entry("c", Position(EPOCH, 1), b"a"))
    assert judge.admit(Entry("c", Position(EPOCH, 2), b"b")).lost == 0


@given(
    epochs=st.lists(
        st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=12),
        min_size=1,
        max_size=3,
    ),
    restart=st.integers(0, 30),
)
def test_every_lost_step_is_counted_exactly(epochs, restart):
    """Entries of 0 to 5 steps, some of which never arrive; halfway the node starts again."""
    messages, entries, lost = {}, [], 0
    for number, epoch in enumerate(epochs):
        clock = missing = 0
        for seq, (arrives, steps) in enumerate(epoch):
            said = [fragment(steps, clock=clock)] if steps else [Heartbeat(0, 0, 0, 0, 0)]
            clock += steps
            if not arrives:
                missing += steps
                continue
            key = b"%d-%d" % (number, seq)
            messages[key] = said
            entries.append(Entry("c", Position(EPOCH + number, seq + 1), key))
            if steps:  # what was lost at the end of an epoch, nobody can know
                lost, missing = lost + missing, 0
    judge, counted = admission(run_spec(), messages=messages), 0
    for number, entry in enumerate(entries):
        if number == restart:
            judge = admission(run_spec(), messages=messages, marks=judge.marks)
        counted += judge.admit(entry).lost
    assert counted == lost


@given(
    st.builds(Position, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    st.integers(-(2**30), 2**30),
    st.floats(),
    st.floats(width=32),
)
def test_nothing_a_client_says_raises(position, integer, number, reward):
    said = [
        Episode(2, integer, 0, number, integer, number, True, False, number, {"x": number}),
        Hello("run", integer, "x", "x", integer, abs(integer)),
        msgspec.structs.replace(fragment(), version=integer, reward=np.full(4, reward, "f4")),
    ]
    arrival = admit(run_spec(), *said, position=position)
    taken = len(arrival.fragments) + len(arrival.episodes) + (arrival.hello is not None)
    assert taken + len(arrival.refusals) in (0, 1, 3)
