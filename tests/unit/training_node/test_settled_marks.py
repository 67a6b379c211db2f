"""A position is confirmed some seconds after it was read, once, and never before."""

from hypothesis import given
from hypothesis import strategies as st

from soulsai.training_node.admission import Mark
from soulsai.training_node.settled_marks import SETTLED_SECONDS, SettledMarks
from soulsai.wire.protocols import Position
from tests.memory_server import MemoryServer
from tests.unit.training_node import node_cases


def marks(**seqs):
    return {client: Mark(Position(1, seq)) for client, seq in seqs.items()}


def test_a_position_settles_after_some_seconds_and_is_reported_once():
    settled = SettledMarks()
    assert settled.due(marks(a=3), 10.0) == {}
    assert settled.due(marks(a=7), 10.0 + SETTLED_SECONDS / 2) == {}
    assert settled.due(marks(a=7), 10.0 + SETTLED_SECONDS) == {"a": Position(1, 3)}
    assert settled.due(marks(a=7), 10.0 + 2 * SETTLED_SECONDS) == {"a": Position(1, 7)}
    assert settled.due(marks(a=7), 10.0 + 9 * SETTLED_SECONDS) == {}


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.dictionaries(st.sampled_from("abc"), st.integers(0, 9))),
        max_size=30,
    )
)
def test_what_is_reported_was_read_so_long_ago(steps):
    settled, now, history, clients = SettledMarks(), 0.0, [], {}
    for seconds, more in steps:
        now += seconds
        for client, count in more.items():
            clients[client] = clients.get(client, 0) + count
        history.append((now, dict(clients)))
        old = [read for at, read in history if at <= now - SETTLED_SECONDS]
        for client, position in settled.due(marks(**clients), now).items():
            assert position.seq == old[-1][client]


def test_a_node_confirms_what_it_has_read(monkeypatch, tmp_path):
    monkeypatch.setattr("soulsai.training_node.settled_marks.SETTLED_SECONDS", 0.1)
    server = MemoryServer()
    with node_cases.Node(monkeypatch, server, node_cases.config(tmp_path)):
        player = node_cases.Player(server)
        player.play(4)
        node_cases.wait_for(lambda: player.wire.received() == player.position)
