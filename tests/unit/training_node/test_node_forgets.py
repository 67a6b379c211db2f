"""Clients that are silent for long are forgotten, but not what was counted of them."""

import time
from functools import partialmethod

import msgspec
import pytest

from soulsai.training_node import node as module
from soulsai.training_node import receiver
from tests.memory_server import MemoryServer, set_clock
from tests.unit.training_node.node_cases import Node, Player, config, wait_for


@pytest.fixture
def server():
    return MemoryServer()


def test_what_is_sent_again_after_the_stream_was_deleted_is_not_counted_again(
    monkeypatch, server, tmp_path
):
    monkeypatch.setattr(module, "FORGET_SECONDS", 0.05)
    monkeypatch.setattr(receiver, "DISCOVER_SECONDS", 0.0)
    with Node(monkeypatch, server, config(tmp_path, every=2)) as node:
        player = Player(server)
        other = Player(server, "other")
        other.named = 1000
        pushed = []
        push = player.wire.push
        monkeypatch.setattr(player.wire, "push", lambda entries: pushed.extend(entries))
        player.play(8)
        push(pushed)
        node.told(lambda status: status.env_steps == 8)
        wait_for(lambda: forgotten(server, other), "the stream to be deleted")
        for _ in range(3):  # until everybody in there has forgotten it, too
            other.play(8)
            node.told(lambda status: other.named - 1000 in {c.admitted for c in status.clients})
        push(pushed, retry=True)  # as a spool does whose last answer was lost
        player.play(4)
        push(pushed[1:])
        node.told(lambda status: 4 in {one.admitted for one in status.clients})
    assert [name for name in node.algorithm.names if name < 1000] == list(range(12))


def forgotten(server, other):
    other.play(8)  # so that there is a checkpoint now and then
    return server.training().clients() == ["other"]


def test_the_marks_that_are_forgotten_are_those_of_the_clients_silent_longest(
    monkeypatch, server, tmp_path
):
    monkeypatch.setattr(module, "MOST_MARKS", 2)
    dropped, forget = [], receiver.Receiver.forget

    def recorded(self, client):
        dropped.append(client)
        forget(self, client)

    monkeypatch.setattr(receiver.Receiver, "forget", recorded)
    with Node(monkeypatch, server, config(tmp_path, every=4)) as node:
        players = [Player(server, name) for name in "abc"]  # in the order of their epochs
        for updates, player in enumerate(players, 1):
            player.play(4)
            wait_for(lambda updates=updates: node.algorithm.updates == updates)
        players[0].play(4)
        wait_for(lambda: dropped)
        players[2].play(4)
        node.told(lambda status: status.env_steps == 20)
    assert dropped[0] == "b"
    (folder,) = tmp_path.iterdir()
    progress = msgspec.json.decode((folder / "checkpoints/000002/progress.json").read_bytes())
    assert list(progress["marks"]) == ["a", "c"]


def test_a_stream_that_this_node_never_heard_of_is_deleted_too(monkeypatch, server, tmp_path):
    monkeypatch.setattr(module, "FORGET_SECONDS", 0.3)
    monkeypatch.setattr(receiver, "DISCOVER_SECONDS", 0.0)
    with Node(monkeypatch, server, config(tmp_path)) as node:
        old = Player(server, "old")
        old.play(4)
        node.told(lambda status: status.env_steps == 4)
    assert server.training().clients() == ["old"]
    with Node(monkeypatch, server, config(tmp_path, every=2), resume="latest"):
        other = Player(server, "other")
        wait_for(lambda: forgotten(server, other), "the stream to be deleted")


def test_after_the_servers_clock_was_set_back_a_notice_comes_and_play_goes_on(
    monkeypatch, server, tmp_path
):
    with Node(monkeypatch, server, config(tmp_path, every=1)) as node:
        player, other = Player(server), Player(server, "other")
        player.play(4)
        node.told(lambda status: status.checkpoint == "000001")
        other.play(4)
        node.told(lambda status: status.checkpoint == "000002")
        server.link().execute("UNLINK", "soulsai:{soulsai}:exp:player")
        now = time.time
        set_clock(monkeypatch, lambda: now() - 3600)
        player.greet()
        player.play(4)
        other.play(4)
        status = node.told(lambda status: "the server's clock was set back" in status.notice)
        assert (status.env_steps, status.rejected) == (12, {"position": 2})
        player.play(4)
        node.told(lambda status: status.env_steps == 16)


def test_a_clock_far_behind_the_servers_refuses_nobody(monkeypatch, server, tmp_path):
    begin = module.TrainingNode.__init__
    behind = partialmethod(begin, now=lambda: time.time() - 3 * 24 * 3600)
    monkeypatch.setattr(module.TrainingNode, "__init__", behind)
    with Node(monkeypatch, server, config(tmp_path)) as node:
        Player(server).play(4)
        assert node.told(lambda status: status.env_steps == 4).rejected == {}
