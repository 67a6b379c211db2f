"""Who plays, how fast, and who has fallen silent; time is what the test says it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.training_node.admission import LARGEST_TOTAL, Arrival, Mark, Refusal
from soulsai.training_node.client_table import MOST_KINDS, ClientTable, Rate
from soulsai.types import Heartbeat, Status
from soulsai.wire.codec import decode, encode
from soulsai.wire.protocols import Position


def hear(clients, arrival, now):
    clients.heard(arrival, now)
    clients.count(arrival, arrival.steps)


class Piece:
    def __init__(self, steps, version):
        self.steps, self.version = steps, version

    def __len__(self):
        return self.steps


def arrival(client="a", *, epoch=1, steps=0, version=1, heartbeat=None, **more):
    fragments = (Piece(steps, version),) if steps else ()
    return Arrival(client, Mark(Position(epoch, 1)), 10, fragments, (), heartbeat, **more)


def beat(**fields):
    return Heartbeat(
        **{"steps": 0, "episodes": 0, "dropped": 0, "queued": 0, "version": 1, **fields}
    )


def test_a_client_is_lost_after_ten_seconds_of_silence():
    clients = ClientTable(0.0)
    hear(clients, arrival("a"), 0.0)
    hear(clients, arrival("b"), 9.0)
    clients.tick(10.0)
    assert (clients.active, [c.state for c in clients.statuses(1)]) == (2, ["active", "active"])
    clients.tick(10.1)
    assert (clients.active, [c.state for c in clients.statuses(1)]) == (1, ["lost", "active"])
    hear(clients, arrival("a"), 11.0)
    assert clients.active == 2


def test_counters_add_up_over_epochs():
    clients = ClientTable(0.0)
    hear(clients, arrival(steps=5, heartbeat=beat(dropped=3, queued=2)), 0.0)
    hear(clients, arrival(steps=5, heartbeat=beat(dropped=4)), 1.0)
    hear(clients, arrival(epoch=2, refusals=(Refusal("x", ""),), lost=7), 2.0)
    hear(clients, arrival(epoch=2, heartbeat=beat(dropped=1)), 3.0)
    (client,) = clients.statuses(1)
    assert (client.admitted, client.dropped, client.rejected, client.lost) == (10, 5, 1, 7)
    assert clients.dropped == 5


def test_faults_of_environments_add_up_over_epochs():
    clients = ClientTable(0.0)
    first = beat(restarts=2, faults={"hang": 1, "crash": 1}, trouble="step: segmentation fault")
    hear(clients, arrival(heartbeat=first), 0.0)
    hear(clients, arrival(heartbeat=first), 1.0)
    hear(clients, arrival(epoch=2), 2.0)
    hear(
        clients, arrival(epoch=2, heartbeat=beat(restarts=1, faults={"hang": 1}, trouble="x")), 3.0
    )
    (client,) = clients.statuses(1)
    assert (client.restarts, client.faults) == (3, {"hang": 2, "crash": 1})
    assert client.trouble == "x"
    assert (clients.restarts, clients.faults) == (3, {"hang": 2, "crash": 1})


def test_faults_of_forgotten_clients_stay_counted_and_their_kinds_are_not_endless():
    clients = ClientTable(0.0, limit=1)
    for number in range(200):
        faults = {"hang": 1, "k" + chr(97 + number // 26) + chr(97 + number % 26): 2}
        hear(clients, arrival(f"c{number}", heartbeat=beat(restarts=3, faults=faults)), number)
    assert clients.restarts == 600
    assert clients.faults["hang"] == 200
    assert clients.faults.total() == 600
    assert len(clients.faults) <= MOST_KINDS + 2


def test_lag_counts_versions_of_the_last_fragment():
    clients = ClientTable(0.0)
    hear(clients, arrival(steps=1, version=3), 0.0)
    assert [c.lag for c in clients.statuses(8)] == [5]
    assert [c.lag for c in clients.statuses(2)] == [0]


def test_waiting_is_what_the_last_heartbeat_says():
    clients = ClientTable(0.0)
    assert not clients.need_grant(1, 0.0)
    hear(clients, arrival("a", heartbeat=beat(waiting=True)), 1.0)
    hear(clients, arrival("b", steps=1, heartbeat=beat()), 1.0)
    assert [c.state for c in clients.statuses(1)] == ["waiting", "active"]
    assert not clients.need_grant(1, 0.0)
    hear(clients, arrival("b", heartbeat=beat(waiting=True)), 2.0)
    assert clients.need_grant(1, 1.0)
    assert not clients.need_grant(1, 1.5)  # the report of a is older
    clients.tick(11.5)  # a is lost, and does not count
    assert clients.need_grant(1, 1.5)


def test_a_client_that_takes_no_step_is_idle_and_holds_up_nobody():
    clients = ClientTable(0.0)
    hear(clients, arrival("hung", steps=3, heartbeat=beat()), 1.0)
    hear(clients, arrival("new", heartbeat=beat()), 1.0)
    hear(clients, arrival("fast", steps=9, heartbeat=beat(waiting=True)), 5.0)
    assert clients.sharing == 3
    assert not clients.need_grant(1, 5.0)
    for now in range(6, 12):
        hear(clients, arrival("hung", heartbeat=beat(steps=999)), now)
        hear(clients, arrival("new", heartbeat=beat()), now)
        hear(clients, arrival("fast", heartbeat=beat(waiting=True)), now)
    assert clients.need_grant(1, 5.0)
    assert (clients.active, clients.sharing, clients.restart_counts()) == (3, 1, [9])
    assert clients.idle(9.0) == ["hung", "new"]
    assert clients.idle(10.5) == []
    hear(clients, arrival("hung", steps=1), 12.0)
    assert clients.sharing == 2


def test_a_client_that_waits_for_slower_ones_goes_on_after_a_while():
    clients = ClientTable(0.0)
    for now in range(1, 10):
        hear(clients, arrival("slow", steps=1, heartbeat=beat()), now)
        hear(clients, arrival("fast", steps=int(now == 1), heartbeat=beat(waiting=True)), now)
        assert clients.need_grant(1, 0.5) == (now >= 6)
    hear(clients, arrival("fast", heartbeat=beat(waiting=True, version=2)), 10.0)
    assert not clients.need_grant(2, 9.0)  # it has just got another version


def test_where_all_are_idle_each_has_its_share():
    clients = ClientTable(0.0)
    for name in "abc":
        hear(clients, arrival(name, heartbeat=beat()), 1.0)
    assert (clients.sharing, clients.restart_counts()) == (3, [0, 0, 0])


def test_who_waits_for_a_version_on_its_way_does_not_wait_for_another_for_a_while():
    clients = ClientTable(0.0)
    for now in (1.0, 2.0, 12.0):
        hear(clients, arrival("a", heartbeat=beat(version=3, waiting=True)), now)
        assert clients.need_grant(3, 1.0)
        assert clients.need_grant(4, 1.0) == (now == 12.0)


def test_only_so_many_clients_are_remembered_but_drops_stay_counted():
    clients = ClientTable(0.0, limit=3)
    for number in range(5):
        hear(clients, arrival(f"c{number}", heartbeat=beat(dropped=1)), float(number))
    assert [c.client for c in clients.statuses(1)] == ["c2", "c3", "c4"]
    assert clients.dropped == 5
    assert clients.silent(1.5) == ["c2"]


@pytest.mark.parametrize("per_second", [0.0, 1.0, 250.0])
def test_a_steady_rate_is_found(per_second):
    rate = Rate()
    found = [rate.per_second(t * 0.25, per_second * t * 0.25) for t in range(100)]
    assert found[0] == 0.0
    assert found[1:] == pytest.approx([per_second] * 99)


def test_a_rate_forgets_within_its_window():
    rate = Rate(window=5.0)
    for second in range(10):
        rate.per_second(float(second), 100.0 * second)
    assert rate.per_second(12.0, 900.0) == pytest.approx(200.0 / 5.0, rel=0.3)
    for second in range(13, 20):
        last = rate.per_second(float(second), 900.0)
    assert last == 0.0


COUNTS = st.sampled_from([0, 1, 2**31, 2**48 - 1]) | st.integers(0, 2**48 - 1)
KIND_NAMES = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=16)
HEARTBEATS = st.builds(
    Heartbeat,
    steps=COUNTS,
    episodes=COUNTS,
    dropped=COUNTS,
    queued=COUNTS,
    version=COUNTS,
    restarts=COUNTS,
    waiting=st.booleans(),
    faults=st.dictionaries(KIND_NAMES, COUNTS, max_size=16),
    trouble=st.just("") | st.just("\u20ac" * 200),
)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), COUNTS, HEARTBEATS), min_size=1, max_size=20),
    st.sampled_from([1, 4, 60]),
    st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_the_status_can_be_encoded_after_any_claims_in_any_number_of_epochs(said, repeats, limit):
    clients = ClientTable(0.0, limit=limit)
    for number, (client, lost, heartbeat) in enumerate(said * repeats):
        mark = Mark(Position(number + 1, 1))
        hear(clients, Arrival(client, mark, 0, heartbeat=heartbeat, lost=lost), 7.0 * number)
    for client in clients.statuses(7):
        for number in (client.dropped, client.restarts, client.lost, *client.faults.values()):
            assert 0 <= number <= LARGEST_TOTAL
        assert len(client.faults) <= MOST_KINDS + 1
    status = Status(
        "run", 1, "learning", "dqn", "e", dropped=clients.dropped, restarts=clients.restarts,
        faults=dict(clients.faults), clients=clients.statuses(7),
    )  # fmt: skip
    assert decode(encode(status), Status) == status
    assert len(status.faults) <= MOST_KINDS + 1
    assert max([0, status.dropped, status.restarts, *status.faults.values()]) <= LARGEST_TOTAL
