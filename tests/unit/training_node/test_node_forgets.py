"""Clients that are silent for long are forgotten, but not what was counted of them."""

import pytest

from soulsai.training_node import node as module
from soulsai.training_node import receiver
from soulsai.training_node.admission import Mark, surplus
from soulsai.wire.protocols import Position
from tests.memory_server import MemoryServer
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


def test_marks_in_surplus_are_those_of_the_longest_gone():
    marks = {name: Mark(Position(epoch, 1)) for name, epoch in (("a", 3), ("b", 1), ("c", 2))}
    assert surplus(marks, 3) == []
    assert surplus(marks, 1) == ["b", "c"]
