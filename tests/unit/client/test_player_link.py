"""What waits to be sent is bounded, and what is thrown away is counted."""

from hypothesis import given
from hypothesis import strategies as st

from soulsai.client.player_link import MAX_MESSAGES, Outbox


def outbox(limit=1000, clock=lambda: 0.0):
    return Outbox(limit, clock)


def everything(box, most=10**9):
    taken = []
    while messages := box.take(most):
        taken.append(messages)
    return taken


def test_messages_leave_in_the_order_in_which_they_came():
    box = outbox()
    for index in range(10):
        box.put(bytes([index]), steps=index % 3)
    assert everything(box) == [[bytes([index]) for index in range(10)]]
    assert (len(box), box.size, box.dropped) == (0, 0, 0)


def test_a_take_is_bounded_but_never_empty_handed():
    box = outbox()
    for size in (50, 10, 10, 10):
        box.put(bytes(size), steps=1)
    assert [[len(data) for data in messages] for messages in everything(box, 20)] == [
        [50],
        [10, 10],
        [10],
    ]


def test_a_take_has_a_bounded_number_of_messages():
    box = outbox(10**6)
    for _ in range(MAX_MESSAGES + 1):
        box.put(b"x")
    assert [len(messages) for messages in everything(box)] == [MAX_MESSAGES, 1]


def test_the_oldest_fragments_go_first_and_their_steps_are_counted():
    box = outbox(limit=100)
    box.put(b"e" * 10)
    for index in range(10):
        box.put(bytes([index]) * 20, steps=7)
    assert box.size <= 100
    assert box.dropped == 6 * 7
    ((first, *rest),) = everything(box)
    assert first == b"e" * 10
    assert [data[0] for data in rest] == [6, 7, 8, 9]


def test_without_fragments_the_oldest_notes_go_too():
    box = outbox(limit=30)
    for index in range(5):
        box.put(bytes([index]) * 10)
    assert everything(box) == [[bytes([index]) * 10 for index in (2, 3, 4)]]
    assert box.dropped == 0


def test_what_is_larger_than_the_outbox_is_dropped_itself():
    box = outbox(limit=10)
    box.put(bytes(11), steps=4)
    assert (len(box), box.size, box.dropped) == (0, 0, 4)


def test_it_says_since_when_the_oldest_waits():
    now = [5.0]
    box = outbox(clock=lambda: now[0])
    assert box.oldest() is None
    box.put(b"a", steps=1)
    now[0] = 6.0
    box.put(b"b")
    assert box.oldest() == 5.0
    box.take(1)
    assert box.oldest() == 6.0


@given(
    limit=st.integers(1, 60),
    does=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 20), st.integers(0, 3)),
            st.tuples(st.just("take"), st.integers(0, 40), st.just(0)),
        ),
        max_size=40,
    ),
)
def test_nothing_is_lost_uncounted_and_the_bound_holds(limit, does):
    box, put, taken = outbox(limit), [], []
    for number, (what, size, steps) in enumerate(does):
        if what == "put":
            put.append((number, size, steps))
            box.put(number.to_bytes(2, "big") + bytes(size), steps)
        else:
            taken += box.take(size)
        assert 0 <= box.size <= limit
    taken += [data for messages in everything(box) for data in messages]
    numbers = [int.from_bytes(data[:2], "big") for data in taken]
    assert numbers == sorted(set(numbers))
    missing = [entry for entry in put if entry[0] not in numbers]
    assert box.dropped == sum(steps for _, _, steps in missing)
