"""A game behind a door: three ways to speak, one answer for each report, and wrong reports."""

import json
import socket
import struct
import threading
from contextlib import ExitStack, closing, contextmanager

import msgspec
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from soulsai.client.bridge.door import MOST_BYTES, Door
from soulsai.client.bridge.environment import BridgedEnvironment
from soulsai.client.isolation.watchdog import EnvironmentBroken
from soulsai.types import MASK, ActionSpec, EnvironmentOffer, Leaf, Spec, zeros

PLAIN = Spec({"obs": Leaf((3,), "<f4")}, ActionSpec("discrete", sizes=(2,)))
NESTED = Spec(
    {"eye": Leaf((2, 2), "|u1"), "room": Leaf((), "|u1", categories=4), MASK: Leaf((2,), "|b1")},
    ActionSpec("box", (2,), low=(-1.0, -1.0), high=(1.0, 1.0)),
)
OFFER = EnvironmentOffer("Game-v0", largest_reward=100.0)


class Lines:
    """A game that speaks lines of JSON."""

    def __init__(self, port):
        self.link = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.link.makefile("rb")

    def send(self, value):
        self.link.sendall(msgspec.json.encode(value) + b"\n")

    def receive(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def close(self):
        self.file.close()
        self.link.close()


class Frames(Lines):
    """A game that speaks frames of MessagePack."""

    def send(self, value):
        data = msgspec.msgpack.encode(value)
        self.link.sendall(struct.pack(">I", len(data)) + data)

    def receive(self):
        head = self.file.read(4)
        return (
            msgspec.msgpack.decode(self.file.read(struct.unpack(">I", head)[0])) if head else None
        )


class Page:
    """A page that speaks text over a WebSocket."""

    def __init__(self, port, **more):
        self.stack = ExitStack()
        self.link = self.stack.enter_context(
            connect(f"ws://127.0.0.1:{port}", compression=None, open_timeout=10, **more)
        )

    def send(self, value):
        self.link.send(json.dumps(value))

    def receive(self):
        return json.loads(self.link.recv(timeout=10))

    def close(self):
        self.stack.close()


class BinaryPage(Page):
    def send(self, value):
        self.link.send(msgspec.msgpack.encode(value))

    def receive(self):
        return msgspec.msgpack.decode(self.link.recv(timeout=10))


GAMES = [Lines, Frames, Page, BinaryPage]


@contextmanager
def bridged(spec=PLAIN, stopped=lambda: False, origins=()):
    with closing(Door(0, origins)) as door:
        environment = BridgedEnvironment(door, OFFER, spec, stopped)
        rows = {name: zeros(leaf) for name, leaf in spec.obs.items()}
        with closing(environment):
            yield door, environment, rows


@contextmanager
def playing(door, game, script):
    """Run a game's script in a thread; what it returns is in the list."""
    said = []

    def play():
        with closing(game(door.port)) as link:
            said.append(script(link))

    thread = threading.Thread(target=play)
    thread.start()
    yield said
    thread.join()


def report(kind, *obs, **more):
    return {"type": kind, "observation": list(obs), **more}


@pytest.mark.parametrize("game", GAMES)
def test_each_report_gets_one_answer(game):
    def script(link):
        answers = []
        for said in (
            {"type": "hello"},
            report("reset", 1, 2, 3),
            report("step", 4, 5, 6, reward=1.5, info={"boss": 0.5}),
            report("step", 7, 8, 9, reward=-1, terminated=True),
            report("reset", 0, 0, 0.5),
        ):
            link.send(said)
            answers.append(link.receive())
        return answers

    with bridged() as (door, environment, rows):
        assert not environment.ready(0.0)
        with playing(door, game, script) as said:
            assert environment.ready(10.0)
            environment.reset(rows, seed=1)
            assert rows["obs"].tolist() == [1, 2, 3]
            first = environment.step(1, rows)
            assert (first.reward, first.terminated, environment.info) == (1.5, False, {"boss": 0.5})
            second = environment.step(np.int64(0), rows)
            assert (second.terminated, rows["obs"].tolist()) == (True, [7, 8, 9])
            environment.reset(rows)
            assert rows["obs"].tolist() == [0, 0, 0.5]
            with pytest.raises(EnvironmentBroken):
                environment.step(1, rows)
    ((spec, *others),) = said
    assert spec["environment"] == "Game-v0"
    assert spec["obs"]["obs"]["shape"] == [3]
    assert spec["action"]["sizes"] == [2]
    one, zero = {"type": "action", "action": 1}, {"type": "action", "action": 0}
    assert others == [one, zero, {"type": "reset"}, one]


def test_named_leaves_come_nested_or_flat_and_actions_are_lists():
    def script(link):
        link.send(
            {"type": "reset", "observation": {"eye": [[1, 2], [3, 4]], "room": 3, MASK: [1, 0]}}
        )
        link.receive()
        obs = {"eye": [5, 6, 7, 8], "room": 0, MASK: [True, True]}
        link.send({"type": "step", "observation": obs, "reward": 0})
        return link.receive()

    with bridged(NESTED) as (door, environment, rows), playing(door, Lines, script) as said:
        assert environment.ready(10.0)
        environment.reset(rows)
        assert rows["eye"].tolist() == [[1, 2], [3, 4]]
        assert (rows["room"].item(), rows[MASK].tolist()) == (3, [True, False])
        environment.step(np.array([0.5, -1.0], "f4"), rows)
        assert rows["eye"].tolist() == [[5, 6], [7, 8]]
        environment.close()
    assert said == [{"type": "end"}]


WRONG = {
    "no JSON": (b"{nonsense\n", "not a message"),
    "no type": (b"{}\n", "not a message"),
    "a step at the start": (report("step", 1, 2, 3, reward=0), "type reset"),
    "too few numbers": (report("reset", 1, 2), "shape"),
    "not a number": (report("reset", 1, 2, "x"), "dtype"),
    "too large a number": (b'{"type":"reset","observation":[1e999,0,0]}\n', ""),
    "an object without the leaf": ({"type": "reset", "observation": {"eye": 1}}, "observation"),
}


@pytest.mark.parametrize(("message", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_report_is_answered_with_the_reason_and_the_next_game_is_welcome(message, words):
    def script(link):
        if isinstance(message, bytes):
            link.link.sendall(message)
        else:
            link.send(message)
        return link.receive()

    with bridged() as (door, environment, rows):
        with playing(door, Lines, script) as said:
            assert environment.ready(10.0)
            with pytest.raises(EnvironmentBroken) as caught:
                environment.reset(rows)
        assert caught.value.fault is not None
        assert said[0]["type"] == "error"
        assert words in said[0]["message"]
        with playing(door, Lines, lambda link: link.send(report("reset", 1, 1, 1))):
            assert environment.ready(10.0)
            environment.reset(rows)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (report("step", 1, 2, 3, reward=101), "reward"),
        (report("step", 1, 2, 3, reward="much"), "not a message"),
        ({"type": "hello there"}, "not a message"),
    ],
)
def test_a_wrong_outcome_ends_the_episode_whose_earlier_steps_are_sound(outcome, words):
    def script(link):
        link.send(report("reset", 1, 2, 3))
        link.receive()
        link.send(outcome)
        return link.receive()

    with bridged() as (door, environment, rows), playing(door, Lines, script) as said:
        assert environment.ready(10.0)
        environment.reset(rows)
        with pytest.raises(EnvironmentBroken) as caught:
            environment.step(0, rows)
        assert caught.value.fault.sound
    assert words in said[0]["message"]


def test_a_game_that_begins_anew_leaves_its_episode():
    def script(link):
        link.send(report("reset", 1, 2, 3))
        link.receive()
        link.send(report("reset", 4, 5, 6))
        return link.receive()

    with bridged() as (door, environment, rows), playing(door, Lines, script) as said:
        assert environment.ready(10.0)
        environment.reset(rows)
        with pytest.raises(EnvironmentBroken) as caught:
            environment.step(0, rows)
        assert (caught.value.fault.kind, caught.value.fault.sound) == ("reset", True)
        assert environment.ready(0.0)
        environment.reset(rows)
        assert rows["obs"].tolist() == [4, 5, 6]
        environment.close()
    assert said == [{"type": "end"}]


@pytest.mark.parametrize("game", [Lines, Frames, Page])
def test_a_game_that_goes_is_noticed(game):
    with bridged() as (door, environment, rows):
        with playing(door, game, lambda link: link.send(report("reset", 1, 2, 3))):
            assert environment.ready(10.0)
            environment.reset(rows)
            with pytest.raises(EnvironmentBroken):
                _ = [environment.step(0, rows) for _ in range(2)]  # the first may still be sent
        assert not environment.ready(0.0)


def test_a_stop_ends_the_wait_for_a_silent_game():
    stopped = threading.Event()
    with bridged(stopped=stopped.is_set) as (door, environment, rows):
        silent = socket.create_connection(("127.0.0.1", door.port))
        with closing(silent):
            silent.sendall(b"{")
            assert environment.ready(10.0)
            threading.Timer(0.3, stopped.set).start()
            with pytest.raises(EnvironmentBroken) as caught:
                environment.reset(rows)
    assert caught.value.fault is None, "nobody is to blame"


def test_a_message_is_bounded():
    def script(link):
        link.link.sendall(b"\0\xff\xff\xff")  # a frame of 16,777,215 bytes

    with bridged() as (door, environment, rows), playing(door, Frames, script):
        assert environment.ready(10.0)
        with pytest.raises(EnvironmentBroken, match=f"over {MOST_BYTES}"):
            environment.reset(rows)


def test_pages_of_other_sites_may_not_play_unless_they_are_named():
    with bridged(origins=("https://example.org",)) as (door, environment, _):

        def refused(**headers):
            found = []

            def open_page():
                with pytest.raises(InvalidStatus) as caught:
                    Page(door.port, **headers)
                found.append(caught.value.response.status_code)

            thread = threading.Thread(target=open_page)
            thread.start()
            assert not environment.ready(10.0)
            thread.join()
            return found[0]

        assert refused(origin="https://evil.example") == 403
        assert refused(origin="null") == 403
        for origin in ("https://example.org", "http://localhost:8000", "http://127.0.0.1"):
            with playing(door, lambda port, o=origin: Page(port, origin=o), lambda link: None):
                assert environment.ready(10.0), origin
                environment.close()
