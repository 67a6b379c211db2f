"""A client from its first question to its last word, in memory and on a real server."""

import logging
import os
import re
import signal
import time

import gymnasium
import msgspec
import numpy as np
import pytest

from soulsai.config import schema
from soulsai.errors import ConfigError, EnvironmentFault, ProtocolError
from soulsai.types import Control, Episode, Heartbeat, Hello
from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.client_cases import TOY, Client, Node, Place, playing, until


@pytest.fixture
def place():
    return Place()


@pytest.fixture(params=["memory", "embedded"])
def any_place(request):
    if request.param == "memory":
        yield Place()
    else:
        with EmbeddedServer() as server:
            yield Place(server)


def test_clients_play_and_nothing_is_lost(any_place):
    node = Node(any_place, count=2)
    with playing(any_place, "one"), playing(any_place, "two", seed=2):
        until(
            lambda: node.listen() > 2000 and {e.client for e in node.of(Episode)} == {"one", "two"}
        )
        until(lambda: node.listen() and len(node.of(Heartbeat)) >= 2)
    node.listen()
    assert node.rejected == []
    for name in ("one", "two"):
        mine = node.fragments(name)
        clock = 0
        for fragment in mine:
            assert fragment.clock == clock
            clock += len(fragment)
        seqs = [position.seq for client, position in node.positions if client == name]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        last = [one for one in mine if one.ended]
        assert {one.episode for one in last} == set(range(max(one.episode for one in mine) + 1)) - {
            one.episode for one in mine[-2:] if not one.ended
        }
    assert {hello.environment for hello in node.of(Hello)} == {TOY}
    assert {hello.environments for hello in node.of(Hello)} == {2}
    assert all(hello.crc == node.run.crc for hello in node.of(Hello))
    episodes = node.of(Episode)
    assert 0.2 < np.mean([one.reward for one in episodes]) < 0.8  # untrained, yet it explores
    node.wire.close()


def test_steps_of_the_last_heartbeat_are_those_that_arrived(place):
    node = Node(place)
    with playing(place):
        until(lambda: node.listen() > 200)
    assert node.listen() == node.of(Heartbeat)[-1].steps
    assert node.of(Heartbeat)[-1].episodes == len(node.of(Episode))


def test_a_client_waits_for_a_run_and_says_so_once(place, caplog):
    caplog.set_level(logging.INFO)
    node = Node(place, publish=False)
    with playing(place):
        until(lambda: "waiting=NoRun" in caplog.text)
        time.sleep(0.5)
        node.open()
        node.publish(1)
        until(lambda: node.listen() > 100)
    assert caplog.text.count("waiting=NoRun") == 1


def test_a_client_waits_for_a_server_and_says_so_once(place, caplog):
    place.memory.down = True
    with playing(place):
        until(lambda: "waiting=Unreachable" in caplog.text)
        place.memory.down = False
        node = Node(place)
        until(lambda: node.listen() > 100)
    assert caplog.text.count("waiting=Unreachable") == 1


def test_a_client_that_waits_can_be_stopped(place):
    place.memory.down = True
    began = time.monotonic()
    with playing(place):
        time.sleep(0.2)
    assert time.monotonic() - began < 2


def test_a_stop_of_the_server_ends_the_client_with_everything_sent(place):
    node = Node(place)
    client = Client(place).start()
    until(lambda: node.listen() > 100)
    node.wire.tell(Control("stop"))
    until(lambda: not client.alive)
    client.stop()
    assert client.error is None
    assert node.listen() == node.of(Heartbeat)[-1].steps


def test_the_next_run_is_played_after_this_one(place):
    first = Node(place)
    with playing(place):
        until(lambda: first.listen() > 100)
        second = Node(place, id="soulsai.testing:ToyEnv", run="next", kwargs={"length": 5})
        until(lambda: second.listen() > 100)
    assert [hello.run for hello in second.of(Hello)] == ["next"]
    assert set(second.rejected) <= {"run"}  # until the client had noticed
    epochs = {one.epoch for one in second.fragments()}
    assert len(epochs) == 1
    assert epochs.isdisjoint({one.epoch for one in first.fragments()})


def test_slow_motion_is_slow(place):
    node = Node(place, fragment_seconds=0.2)
    with playing(place, step_delay=0.05):
        until(lambda: node.listen() >= 10)
        assert node.listen() < 100
    lengths = [len(one) for one in node.fragments() if not one.ended]
    assert max(lengths) <= 5


def test_one_client_in_lockstep_repeats_itself():
    def played():
        place = Place()
        node = Node(place, publish=False, count=2, fragment_steps=16)
        node.open()
        seen = []
        with playing(place, seed=7):
            for version in range(1, 6):
                node.arrays["b"][:] = np.roll([0.0, 0.1, 0.2], version)
                node.publish(version, quota=50, exploration={"random": float(version == 1)})
                until(lambda version=version: node.listen() == 50 * version)
        for fragment in node.fragments():
            columns = {name: leaf.tobytes() for name, leaf in fragment.obs.items()}
            seen.append((fragment.version, fragment.episode, fragment.start, columns))
            seen.append((fragment.action.tobytes(), fragment.epsilon, fragment.greedy))
        return seen

    first, second = played(), played()
    assert len(first) > 20
    assert first == second


def test_the_server_may_go_and_come_back():
    with EmbeddedServer() as server:
        place = Place(server)
        node = Node(place)
        with playing(place, step_delay=0.001):
            until(lambda: node.listen() > 200)
            os.kill(server.pid, signal.SIGKILL)
            until(lambda: not server.alive)
            before = node.fragments()[-1].clock
            server.restart()
            node.generation = node.wire.open(node.run, node.program, fresh=False)
            node.publish(1)
            until(lambda: node.listen() and node.fragments()[-1].clock > before + 100)
            # The node has confirmed nothing, so an empty server is sent everything again.
            node.messages.clear()
            node.after.clear()
            node.listen()
        clocks = [range(one.clock, one.clock + len(one)) for one in node.fragments()]
        assert [clock for each in clocks for clock in each] == list(range(clocks[-1][-1] + 1))
        assert {hello.run for hello in node.of(Hello)} == {"toy"}
        node.wire.close()


def test_a_run_that_changes_while_the_environment_is_made_is_no_trap(place, tmp_path):
    mine = tmp_path / "slow.py"
    mine.write_text(
        "import gymnasium\n"
        "from soulsai.testing import ToyEnv\n"
        "def make(length=8): return gymnasium.begin_next_run() or ToyEnv(length)\n"
    )
    Node(place)
    nodes = []

    def begin_next_run():
        if not nodes:
            nodes.append(Node(place, run="next", kwargs={"length": 5}))

    gymnasium.begin_next_run = begin_next_run
    with playing(place, environment=f"{mine}:make"):
        until(lambda: nodes and nodes[0].listen() > 100)
    del gymnasium.begin_next_run
    assert [hello.run for hello in nodes[0].of(Hello)] == ["next"]


# What is refused


def refused(place, kind, match, **options):
    client = Client(place, **options).start()
    until(lambda: not client.alive)
    client.stop()
    with pytest.raises(kind, match=match):
        raise client.error
    assert "\n" not in str(client.error)
    return client.error


def test_an_environment_that_is_not_allowed_is_refused(place):
    node = Node(place)
    refused(place, ConfigError, r"client\.environments", listed=())
    refused(place, ConfigError, r"client\.environments", listed=("CartPole-v1",))
    with playing(place, listed=(), environment=TOY):
        until(lambda: node.listen() > 10)


def test_the_users_environment_is_played_with_the_kwargs_of_the_run(place, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from soulsai.testing import ToyEnv\n"
        "def make(length):\n"
        "    if length != 5: raise ValueError(length)\n"
        "    return ToyEnv(length)\n"
    )
    node = Node(place, kwargs={"length": 5})
    with playing(place, listed=(), environment=f"{mine}:make"):
        until(lambda: node.listen() > 10)
    assert node.of(Hello)[0].environment == "mine.py:make"  # our folders are nobody's business


def test_another_environment_than_the_runs_is_refused(place):
    Node(place, "CartPole-v1")
    refused(place, EnvironmentFault, r"'obs' is float32\[4\].*|actions", environment=TOY)


def test_a_server_of_another_protocol_is_refused(place):
    node = Node(place, publish=False)
    for changes, match in [
        ({"protocol": 9, "oldest_protocol": 9}, "update the client"),
        ({"protocol": 0, "oldest_protocol": 0}, "update the server"),
    ]:
        node.run = msgspec.structs.replace(node.run, **changes)
        node.open()
        error = refused(place, ProtocolError, match)
        assert error.exit_code == 3


def test_a_crash_of_the_environment_is_told_after_its_experience_is_sent(place):
    id = "soulsai.testing:RudeEnv"
    node = Node(place, id, kwargs={"fault": "step", "after": 30})
    refused(place, EnvironmentFault, "crashed", listed=(id,))
    assert node.listen() > 0
    assert node.of(Heartbeat)


@pytest.mark.parametrize(
    ("fault", "words"), [("raise", "step raised RuntimeError"), ("leave", "step raised SystemExit")]
)
def test_a_rare_fault_of_the_environment_costs_its_episode(place, fault, words):
    id = "tests.system.sick_env:Sick"
    node = Node(place, id, kwargs={"fault": fault, "after": 150})
    with playing(place, listed=(id,)):
        until(lambda: node.listen() > 500)
        until(lambda: node.listen() and node.of(Heartbeat)[-1].faults.get("crash", 0) >= 3)
    node.listen()
    last = node.of(Heartbeat)[-1]
    assert words in last.trouble
    assert last.restarts == last.faults["crash"]
    assert node.rejected == []
    assert node.listen() + last.dropped == last.steps
    assert node.of(Episode)


def test_an_environment_that_does_not_start_is_told(place):
    id = "soulsai.testing:RudeEnv"
    Node(place, id, kwargs={"fault": "four", "after": 1})
    refused(place, EnvironmentFault, "step returns a tuple of 4", listed=(id,))


def test_the_clients_own_count_takes_precedence(place):
    node = Node(place, count=2)
    with playing(place, environment_config=schema.EnvironmentSettings(count=3)):
        until(lambda: node.listen() > 10)
    assert node.of(Hello)[0].environments == 3


class Person:
    """A person who holds a key in every second step, and remembers the pictures."""

    def __init__(self):
        self.polled, self.pictures, self.closed = 0, [], False

    def poll(self):
        self.polled += 1
        return np.array([1]) if self.polled % 2 else None

    def show(self, frame, *, person):
        self.pictures.append(frame)

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("id", "isolate", "words"),
    [
        ("CartPole-v1", False, ""),
        (TOY, False, "take-over: soulsai.testing:ToyEnv draws its own window, or none"),
        ("CartPole-v1", True, "in a process of its own; .*set environment.isolate to false"),
    ],
    ids=["pictures", "none", "isolated"],
)
def test_a_person_who_takes_over_sees_the_game_or_is_told_why_not(
    place, id, isolate, words, caplog
):
    caplog.set_level(logging.INFO)
    node, person, opened = Node(place, id, publish=False), Person(), []

    def take_over(action, environment):
        opened.append((action, environment))
        return person

    node.run = msgspec.structs.replace(node.run, interventions=True)
    node.open()
    node.publish(1)
    mine = schema.EnvironmentSettings(isolate=isolate)
    with playing(place, listed=(id,), environment_config=mine, take_over=take_over):
        until(lambda: node.listen() > 20)
    assert person.closed
    assert any(fragment.intervened.any() for fragment in node.fragments())
    assert person.pictures
    if words:
        assert re.search(words, caplog.text)
        assert all(picture is None for picture in person.pictures)
    else:
        assert all(picture.shape == (400, 600, 3) for picture in person.pictures)
    ((action, environment),) = opened
    assert action == node.run.spec.action
    assert (environment is None) == isolate
