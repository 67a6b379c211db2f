"""Clocks that go back, servers that go away, and two threads on one wire."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from soulsai.errors import Unreachable
from soulsai.types import PROTOCOL, Control, Hello, Status
from soulsai.wire.protocols import START, Position
from tests.contract.wire_cases import PROGRAM, REAL, run_spec, start, weights, wires
from tests.memory_server import MemoryServer, set_clock

SPEC = run_spec()
STALL_SECONDS = 7.0  # longer than a command waits for its answer
HELLO = Hello("run-1", PROTOCOL, "0.1", "LunarLander-v3", 1, SPEC.crc)


def test_an_epoch_is_later_than_all_before_even_if_the_servers_clock_is_not(monkeypatch):
    now = [1000.0]
    set_clock(monkeypatch, lambda: now[0])
    memory = MemoryServer()
    memory.training().open(SPEC, PROGRAM, fresh=True)
    client = memory.client("c1")
    epochs = []
    for step in (0, 5, -500, 0, 0.001, 600):
        now[0] += step
        position = client.hello(HELLO)
        epochs.append(position.epoch)
        client.push([(Position(position.epoch, position.seq + 1), b"x")])
    assert epochs == sorted(set(epochs))


def test_while_the_server_is_down_everybody_is_told_and_goes_on_after_it():
    memory = MemoryServer()
    node, client = memory.training(), memory.client("c1")
    node.open(SPEC, PROGRAM, fresh=True)
    client.spec()
    assert client.wait(1) == [Control("resume")]
    memory.down = True
    for call in (node.generation, client.pointer, lambda: node.read({"c1": START}, 0)):
        with pytest.raises(Unreachable):
            call()
    with pytest.raises(Unreachable):
        client.wait(0.5)
    memory.down = False
    node.tell(Control("stop"))
    # Said before the client listens again, and heard all the same.
    assert client.wait(10)[-1] == Control("stop")
    node.publish(weights(1))
    assert client.pointer().version == 1


@pytest.mark.parametrize("kind", ["memory", *REAL])
def test_one_thread_reads_while_another_does_everything_else(kind):
    server = start(kind)
    with wires(kind, server, "threads") as wire:
        node, client = wire.training(), wire.client("c1")
        node.open(SPEC, PROGRAM, fresh=True)
        client.spec()
        hello = client.hello(HELLO)
        total = 2000
        read: list[Position] = []

        def receive() -> None:
            after = {"c1": hello}
            while len(read) < total:
                for entry in node.read(after, 1):
                    read.append(entry.position)
                    after = {"c1": entry.position}

        receiver = threading.Thread(target=receive)
        receiver.start()
        positions = [Position(hello.epoch, hello.seq + 1 + number) for number in range(total)]
        for first in range(0, total, 50):
            client.push([(position, b"x") for position in positions[first : first + 50]])
            node.publish(weights(first))
            node.report(Status("run-1", 1, "learning", "dqn", "L"))
            assert node.requests() == []
        receiver.join(20)
        assert not receiver.is_alive()
        assert read == positions
    if server is not None:
        server.stop()


@pytest.mark.parametrize("kind", REAL)
def test_a_command_whose_answer_is_late_is_sent_once(kind):
    """redis-py 8.1 repeats a command ten times by default, also one that has timed out."""
    server = start(kind)
    with wires(kind, server, "late") as wire, ThreadPoolExecutor(2) as threads:
        node, client = wire.training(), wire.client("c1")
        generation = node.open(SPEC, PROGRAM, fresh=True)
        client.spec()
        calls = [
            lambda: node._connection.execute("INCR", node._keys.generation),
            lambda: client.hello(HELLO),  # XADD under an id of the server's choice
        ]
        os.kill(server.pid, signal.SIGSTOP)
        stalled = time.monotonic()
        made = [threads.submit(call) for call in calls]
        errors = [call.exception() for call in made]
        assert all(isinstance(error, Unreachable) for error in errors), errors
        time.sleep(max(0.0, STALL_SECONDS - (time.monotonic() - stalled)))
        os.kill(server.pid, signal.SIGCONT)
        assert node.generation() == generation + 1
        assert len(node.read({"c1": START}, 1.0)) == 1
    server.stop()
