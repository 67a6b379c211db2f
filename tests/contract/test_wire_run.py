"""Weights, commands, controls, status and episodes, on every implementation of the wire."""

import itertools
import threading
import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from soulsai.errors import Superseded, WireError
from soulsai.types import (
    Answer,
    Control,
    Delta,
    Episode,
    EvaluationRequest,
    Event,
    Head,
    Leaf,
    Pause,
    Program,
    Quicksave,
    SaveBest,
    Status,
    Stop,
    Weights,
)
from soulsai.wire.codec import encode
from soulsai.wire.delta import encode_delta
from soulsai.wire.shared_weights import SharedWeights
from soulsai.wire.training_role import _Identified
from tests.contract.wire_cases import KINDS, PROGRAM, program, run_spec, start, weights, wires
from tests.memory_server import MemoryServer, set_clock

SPEC = run_spec()
EPISODE = Episode(1, 2, 3, -4.5, 60, 1.5, True, False, 0.1, {"x": 1.0}, "c1", 1000, 12.5)
STATUS = Status("run-1", 1, "learning", "dqn", "LunarLander-v3", metrics={"loss": float("nan")})
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


def settled(client):
    """Return a client that listens already."""
    client.spec()
    while client.wait(0.05) or client.wait(0.05):
        pass
    return client


def test_weights_arrive_as_published(wire, node):
    client = wire.client("c1")
    assert client.pointer() is None
    said = node.publish(weights(3, 2.5, quota=100, exploration={"random": 1.0}))
    pointer = client.pointer()
    assert pointer == said
    assert (pointer.generation, pointer.version, pointer.run) == (node.generation(), 3, "run-1")
    got = client.weights(pointer, PROGRAM)
    assert (got.version, got.quota, got.exploration) == (3, 100, {"random": 1.0})
    assert got.arrays["w"].tolist() == [2.5] * 5
    assert got.arrays["count"].tolist() == 3
    assert not got.arrays["w"].flags.writeable


def test_a_pointer_that_the_server_has_lost_is_noticed(wire, node):
    assert node.is_published()  # nothing, as nothing was
    node.publish(weights(1))
    older = node._connection.execute("GET", node._keys.model)
    node.publish(weights(2))
    assert node.is_published()
    node._connection.execute("SET", node._keys.model, older)
    assert not node.is_published()
    node.publish(weights(3))
    assert node.is_published()


def test_large_weights_travel_in_pieces(wire):
    large = program(floats=1_400_000)
    node = wire.training()
    node.open(run_spec(program=large), large, fresh=True)
    sent = weights(1, program=large)
    sent.arrays["w"][:] = np.arange(1_400_000)
    pointer = node.publish(sent)
    assert pointer.bytes == 1_400_000 * 4 + 8
    got = wire.client("c1").weights(pointer, large)
    assert np.array_equal(got.arrays["w"], sent.arrays["w"])


MATRIX = Program(b"", "weights", ("obs",), ("q",), Head("epsilon_greedy"),
                 {"m": Leaf((16, 32), "<f4"), "b": Leaf((32,), "<f4")})  # fmt: skip


class Series:
    """Versions of a matrix: the first is sent whole, the others as deltas unless it is said."""

    def __init__(self, wire):
        self.node = wire.training()
        generation = self.node.open(run_spec(program=MATRIX), MATRIX, fresh=True)
        self.first = Weights("run-1", generation, 0, {})
        self.rng = np.random.default_rng(0)
        self.base, self.version = None, 0
        self.arrays = {"m": self.drawn(16, 32), "b": self.drawn(32)}

    def drawn(self, *shape):
        return self.rng.standard_normal(shape).astype("<f4")

    def publish(self, *, whole=False, damage=b""):
        self.version += 1
        change = {"m": 1e-3 * self.drawn(16, 32), "b": self.drawn(32)}
        self.arrays = {name: self.arrays[name] + change[name] for name in self.arrays}
        delta = None
        if self.base is not None and not whole:
            data, self.arrays = encode_delta(self.base[1], self.arrays, MATRIX)
            delta = Delta(self.base[0], damage or data)
        weights = msgspec.structs.replace(
            self.first, version=self.version, arrays=self.arrays, delta=delta
        )
        if delta is None:
            self.base = self.version, self.arrays
        return self.node.publish(weights)

    def taken(self, client, pointer):
        """Let a client take a version; return the kinds of the pieces that it has read."""
        read = []
        real = client._connection.execute

        def noted(*command):
            read.append(command[1].rpartition("model:")[2])
            return real(*command)

        client._connection.execute = noted
        got = client.weights(pointer, MATRIX)
        client._connection.execute = real
        assert {n: a.tobytes() for n, a in got.arrays.items()} == {
            n: a.tobytes() for n, a in self.arrays.items()
        }
        return [key.partition("-")[2] for key in read]


def test_versions_travel_as_deltas_to_the_last_whole_one(wire):
    series, client = Series(wire), wire.client("c1")
    assert series.taken(client, series.publish()) == ["1:0"]
    assert series.taken(client, series.publish()) == ["2:d0"]
    series.publish()  # which this client misses
    pointer = series.publish()
    assert pointer.delta.bytes < pointer.bytes / 2
    assert series.taken(client, pointer) == ["4:d0"]
    newcomer = wire.client("c2")
    assert series.taken(newcomer, pointer) == ["1:0", "4:d0"]
    assert series.taken(newcomer, series.publish()) == ["5:d0"]
    assert series.taken(client, series.publish(whole=True)) == ["6:0"]
    assert series.taken(newcomer, series.publish()) == ["6:0", "7:d0"]  # it has missed the 6th


def test_a_client_that_knows_no_deltas_gets_the_same_numbers(wire):
    series, client = Series(wire), wire.client("c1")
    series.publish()
    pointer = msgspec.structs.replace(series.publish(), delta=None)
    assert series.taken(client, pointer) == ["2:0"]


def test_a_delta_that_is_damaged_is_replaced_by_the_whole_version(wire, caplog):
    series, client = Series(wire), wire.client("c1")
    assert series.taken(client, series.publish()) == ["1:0"]
    assert series.taken(client, series.publish(damage=b"x" * 40)) == ["2:d0", "2:0"]
    assert "weights=whole" in caplog.text
    pointer = series.publish()
    wrong = msgspec.structs.replace(pointer.delta.base, sha256="0" * 64)
    delta = msgspec.structs.replace(pointer.delta, base=wrong)
    bad = msgspec.structs.replace(pointer, delta=delta)
    assert series.taken(wire.client("c2"), bad) == ["1:0", "3:0"]


def test_clients_of_one_user_download_each_version_once(wire, tmp_path):
    def sharing(name):
        client = wire.client(name)
        client._shared = SharedWeights(tmp_path / "weights", 10**6)
        return client

    series, clients = Series(wire), [sharing(f"c{number}") for number in range(3)]
    first = series.publish()
    assert [series.taken(client, first) for client in clients] == [["1:0"], [], []]
    second = series.publish()
    assert [series.taken(client, second) for client in clients] == [["2:d0"], [], []]
    assert series.taken(sharing("newcomer"), second) == [], "it has the base from the others, too"
    damaged = series.publish(damage=b"x" * 40)
    assert [series.taken(client, damaged) for client in clients] == [
        ["3:d0", "3:0"], ["3:d0"], ["3:d0"]
    ]  # fmt: skip
    alone = wire.client("alone")
    last = series.publish()
    assert series.taken(alone, last) == ["1:0", "4:d0"]
    assert alone.weights_bytes == (first.bytes + last.delta.bytes, 0)
    assert clients[1].weights_bytes == (40, 2 * first.bytes + second.delta.bytes)


def test_a_delta_to_another_version_than_the_last_whole_one_is_not_published(wire):
    series = Series(wire)
    series.publish()
    series.base = (7, series.base[1])
    with pytest.raises(WireError, match="version 7 was not"):
        series.publish()


def test_the_whole_version_stays_while_deltas_are_made_to_it(monkeypatch):
    now = [1000.0]
    set_clock(monkeypatch, lambda: now[0])
    monkeypatch.setattr("soulsai.wire.training_role._OLD_VERSIONS_BYTES", 100)
    memory = MemoryServer()
    series = Series(SimpleNamespace(training=memory.training))
    pointers = [series.publish()]
    for _ in range(9):
        now[0] += 200
        pointers.append(series.publish())
    assert series.taken(memory.client("c1"), pointers[-1]) == ["1:0", "10:d0"]
    now[0] += 200
    series.publish(whole=True)
    now[0] += 400
    with pytest.raises(WireError, match="gone"):
        memory.client("c2").weights(pointers[-1], MATRIX)


def test_an_older_version_can_still_be_fetched_for_a_while(wire, node):
    first = node.publish(weights(1, 1.0))
    node.publish(weights(2, 2.0))
    assert wire.client("c1").weights(first, PROGRAM).arrays["w"][0] == 1.0


def test_weights_that_are_gone_damaged_or_of_another_program_are_refused(wire, node):
    client = wire.client("c1")
    pointer = node.publish(weights(1))
    with pytest.raises(WireError, match="gone"):
        client.weights(msgspec.structs.replace(pointer, version=9), PROGRAM)
    with pytest.raises(WireError, match="damaged"):
        client.weights(msgspec.structs.replace(pointer, sha256="0" * 64), PROGRAM)
    with pytest.raises(WireError, match="another program"):
        client.weights(pointer, program(floats=8))
    with pytest.raises(WireError, match="program"):
        client.program(msgspec.structs.replace(SPEC, program_sha256="0" * 64))


def test_weights_of_another_shape_are_not_published(node):
    with pytest.raises(WireError, match="as the program says"):
        node.publish(weights(1, program=program(floats=8)))


def test_each_opening_gets_a_greater_generation_and_the_older_node_stops(wire, node):
    first = node.generation()
    newer = wire.training()
    assert newer.open(SPEC, PROGRAM, fresh=False) > first
    assert node.generation() == newer.generation() > first
    with pytest.raises(Superseded):
        node.publish(weights(1))
    pointer = newer.publish(weights(1))
    assert wire.client("c1").pointer().order == pointer.order == (newer.generation(), 1)


def test_a_hint_of_new_weights_ends_the_wait(wire, node):
    client = settled(wire.client("c1"))
    timer = threading.Timer(0.2, node.publish, (weights(1),))
    timer.start()
    began = time.monotonic()
    assert client.wait(10) == []
    assert 0.1 < time.monotonic() - began < 5
    assert client.hinted
    timer.join()
    client.wake()
    assert client.wait(10) == []
    assert not client.hinted, "it was heard of before"


def test_waking_ends_the_wait_now_or_the_next_one_at_once(wire, node):
    client = settled(wire.client("c1"))
    timer = threading.Timer(0.2, client.wake)
    timer.start()
    began = time.monotonic()
    assert client.wait(10) == []
    assert 0.1 < time.monotonic() - began < 5
    timer.join()
    client.wake()
    client.wake()
    assert client.wait(10) == []
    began = time.monotonic()
    assert client.wait(0.3) == []
    assert 0.25 < time.monotonic() - began < 1


def test_controls_come_in_order_and_the_last_one_reaches_who_connects_later(wire, node):
    client = settled(wire.client("c1"))
    node.tell(Control("pause"))
    node.tell(Control("resume"))
    node.tell(Control("stop"))
    told = []
    while len(told) < 3:
        told += client.wait(5)
    assert [control.op for control in told] == ["pause", "resume", "stop"]
    assert wire.client("late").wait(5)[-1] == Control("stop")


def test_a_new_node_lets_paused_clients_go_on(wire, node):
    client = settled(wire.client("c1"))
    node.tell(Control("pause"))
    assert client.wait(5) == [Control("pause")]
    wire.training().open(SPEC, PROGRAM, fresh=False)
    assert client.wait(5) == [Control("resume")]


def test_a_command_is_answered(wire, node):
    taken = []

    def serve():
        deadline = time.monotonic() + 10
        while len(taken) < 3 and time.monotonic() < deadline:
            for request in node.requests():
                taken.append((request.who, request.command))
                node.answer(request, Answer(True, f"done {len(taken)}"))
            time.sleep(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    operator, telemetry = wire.operator(), wire.telemetry()
    assert operator.command(Quicksave(replay=False), 5) == Answer(True, "done 1")
    assert telemetry.command(SaveBest(1, 7, 12.5), 5) == Answer(True, "done 2")
    assert operator.command(Stop(), 5) == Answer(True, "done 3")
    thread.join()
    assert taken == [
        ("operator", Quicksave(replay=False)),
        ("telemetry", SaveBest(1, 7, 12.5)),
        ("operator", Stop()),
    ]
    assert node.requests() == []


def test_a_command_that_nobody_answers_is_an_error(wire, node):
    with pytest.raises(WireError, match="no answer"):
        wire.operator().command(Pause(), 0.3)


def test_a_command_is_taken_once_and_never_after_its_asker_has_gone(wire, node):
    operator = wire.operator()
    with pytest.raises(WireError):
        operator.command(Stop(), 0.05)
    time.sleep(0.1)
    assert node.requests() == []

    def ask():
        with pytest.raises(WireError):
            operator.command(Pause(), 1)

    asking = threading.Thread(target=ask)
    asking.start()
    restarted = wire.training()
    restarted.open(SPEC, PROGRAM, fresh=False)
    requests = []
    deadline = time.monotonic() + 5
    while not requests and time.monotonic() < deadline:
        requests = restarted.requests()
    assert [request.command for request in requests] == [Pause()]
    again = wire.training()
    again.open(SPEC, PROGRAM, fresh=False)
    assert again.requests() == []
    asking.join()


def test_what_is_no_command_is_answered_with_what_is_wrong(wire, node):
    operator = wire.operator()
    key = operator._keys.commands("operator")
    operator._connection.execute("XADD", key, "MAXLEN", "~", 256, "*", "d", b"\xc1 nonsense")
    operator._connection.execute(
        "XADD", key, "MAXLEN", "~", 256, "*", "d", encode(_Identified("a1"))
    )
    assert node.requests() == []
    _, data = operator._connection.execute("BLPOP", operator._keys.reply("operator", "a1"), "1")
    assert b"not a command" in data


def test_the_status_is_there_while_it_is_renewed(wire, node):
    assert wire.operator().status() is None
    node.report(STATUS)
    seen = wire.telemetry().status()
    assert (seen.phase, seen.algorithm) == ("learning", "dqn")
    assert np.isnan(seen.metrics["loss"])


def test_the_status_vanishes_after_ten_seconds(monkeypatch):
    now = [1000.0]
    set_clock(monkeypatch, lambda: now[0])
    memory = MemoryServer()
    node = memory.training()
    node.report(STATUS)
    now[0] += 9.9
    assert memory.operator().status() is not None
    now[0] += 0.2
    assert memory.operator().status() is None


def test_the_newest_weights_never_vanish_and_older_ones_do(monkeypatch):
    now = [1000.0]
    set_clock(monkeypatch, lambda: now[0])
    memory = MemoryServer()
    node, client = memory.training(), memory.client("c1")
    node.open(SPEC, PROGRAM, fresh=True)
    old = node.publish(weights(1))
    now[0] += 3600
    new = node.publish(weights(2))
    now[0] += 299
    client.weights(old, PROGRAM)
    now[0] += 3600
    assert client.weights(new, PROGRAM).version == 2
    with pytest.raises(WireError, match="gone"):
        client.weights(old, PROGRAM)


def test_old_weights_do_not_fill_the_server(monkeypatch):
    monkeypatch.setattr("soulsai.wire.training_role._OLD_VERSIONS_BYTES", 100)
    memory = MemoryServer()
    node, client = memory.training(), memory.client("c1")
    node.open(SPEC, PROGRAM, fresh=True)
    pointers = [node.publish(weights(version)) for version in range(6)]
    for pointer in pointers[-3:]:
        client.weights(pointer, PROGRAM)
    with pytest.raises(WireError, match="gone"):
        client.weights(pointers[0], PROGRAM)


def test_episodes_are_read_on_from_a_position(wire, node):
    telemetry = wire.telemetry()
    assert telemetry.episodes("0-0", 0) == []
    node.record([EPISODE, EPISODE])
    node.record([])
    first = telemetry.episodes("0-0", 1)
    assert [episode for _, episode in first] == [EPISODE, EPISODE]
    node.record([EPISODE])
    assert len(telemetry.episodes(first[-1][0], 1)) == 1
    assert wire.telemetry().episodes(first[0][0], 1)[0] == first[1]


def test_the_bytes_of_episodes_are_bounded(wire, node, monkeypatch):
    monkeypatch.setattr("soulsai.wire.training_role._EPISODE_BYTES", 100_000)
    info = {f"{number:02}{'x' * 60}": 1.0 for number in range(32)}
    large = msgspec.structs.replace(EPISODE, info=info)
    for number in range(20):
        node.record([msgspec.structs.replace(large, episode=10 * number + n) for n in range(10)])
    kept = [episode.episode for _, episode in wire.telemetry().episodes("0-0", 0)]
    assert kept == list(range(200 - len(kept), 200)), "the newest ones"
    assert 30 <= len(kept) <= 100_000 // 2000 + 10
    node.record([EPISODE] * 500)
    small = wire.telemetry().episodes("0-0", 0)
    assert len(small) > 500, "small ones have room"


def test_what_is_no_episode_is_skipped_and_counted_once(wire, node):
    telemetry = wire.telemetry()
    node.record([EPISODE])
    add = ("XADD", node._keys.episodes, "MAXLEN", "~", 10_000, "*")
    for _ in range(1100):  # more than one call reads
        node._connection.execute(*add, "d", b"\xc1 nonsense")
    node._connection.execute(*add, "d", b"", "e", b"")
    (found,) = telemetry.episodes("0-0", 0.0)
    assert telemetry.episodes(found[0], 0.0) == []
    node.record([EPISODE])
    for _ in range(2):
        assert [episode for _, episode in telemetry.episodes(found[0], 0.0)] == [EPISODE]
    assert telemetry.unreadable == 1101


def test_a_resumed_run_finds_nothing_of_the_run_between(wire, node):
    node.record([EPISODE])
    same = wire.training()
    same.open(SPEC, PROGRAM, fresh=False)
    assert len(wire.telemetry().episodes("0-0", 0.1)) == 1
    other = msgspec.structs.replace(SPEC, run="run-2")
    wire.training().open(other, PROGRAM, fresh=False)
    assert wire.telemetry().episodes("0-0", 0.0) == []


def test_events_reach_who_listens(wire, node):
    telemetry = wire.telemetry()
    assert list(telemetry.events(0)) == []
    node.announce(Event("checkpoint", "number 3"))
    telemetry.announce(Event("best", "12.5"))
    heard = []
    while len(heard) < 2:
        heard += telemetry.events(5)
    assert heard == [Event("checkpoint", "number 3"), Event("best", "12.5")]


def test_an_older_version_is_kept_for_clients_that_are_asked_to_play_it(wire, node):
    client = settled(wire.client("c1"))
    first = node.publish(weights(1, 1.5))
    node.publish(weights(2, 2.5))
    old = msgspec.structs.replace(weights(1, 1.5), generation=first.generation)
    request = EvaluationRequest(3, node.keep(old))
    node.tell(Control("resume", request))
    controls: list[Control] = []
    deadline = time.monotonic() + 10.0
    while not controls and time.monotonic() < deadline:  # hints of the versions come before it
        controls = [one for one in client.wait(2.0) if one.evaluation]
    (control,) = controls
    assert control == Control("resume", request)
    pointer = client.requested(control.evaluation)
    assert pointer.order == first.order
    got = client.weights(pointer, PROGRAM)
    np.testing.assert_array_equal(got.arrays["w"], old.arrays["w"])
    assert client.pointer().version == 2, "the newest version stays the newest"


def test_a_request_that_nobody_signed_is_refused(wire, node):
    client = wire.client("c1")
    client.spec()
    with pytest.raises(WireError):
        client.requested(EvaluationRequest(1, b"nonsense"))
