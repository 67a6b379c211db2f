"""The server is gone for long and the client dies meanwhile: what it played arrives once."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager, suppress

import pytest

from soulsai.types import Heartbeat, Hello
from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.client_cases import TOY, Node, Place, playing, until


@pytest.fixture
def server(tmp_path):
    with EmbeddedServer(tmp_path / "server") as server:  # with a folder, so that it remembers
        yield server


@contextmanager
def client(server, spool):
    """A client as people start it, in a process of its own."""
    words = ["client", "--redis", server.url, "--secrets", str(server.secrets), "--env", TOY]
    words += ["--name", "one", "--seed", "1", "--step-delay", "0.01", f"--set=client.spool={spool}"]
    with (spool.parent / "client.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "soulsai", *words], stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def spooled(spool):
    """Return the bytes of all entries on disk."""
    total = 0
    for path in spool.rglob("*.sqlite3"):
        with closing(sqlite3.connect(path)) as database, suppress(sqlite3.Error):
            total += database.execute("SELECT total(length(data)) FROM entries").fetchone()[0]
    return total


def kill(server):
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.alive)


def epochs(node):
    """Return for each epoch the env steps as they were numbered by the client."""
    node.listen()
    found = {}
    for one in node.fragments("one"):
        found.setdefault(one.epoch, []).extend(range(one.clock, one.clock + len(one)))
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_played_without_a_server_arrives_once_after_a_restart(server, tmp_path, how):
    node = Node(Place(server), fragment_seconds=0.2)
    spool = tmp_path / "spool"
    with client(server, spool) as first:
        until(lambda: node.listen() > 100)
        kill(server)
        until(lambda: spooled(spool) > 3_000)
        first.send_signal(how)
        assert first.wait(20) in (0, -signal.SIGKILL)
    node.wire.close()
    server.restart()
    node.wire = Place(server).training()
    assert node.wire.clients() == ["one"]
    with client(server, spool):
        until(lambda: len(node.of(Hello)) > 1 or (node.listen() and False))
        until(lambda: spooled(spool) == 0)
        until(lambda: len(epochs(node)) == 2 and len(max(epochs(node).items())[1]) > 50)
    before, after = (steps for _, steps in sorted(epochs(node).items()))
    assert before == list(range(len(before)))  # nothing twice, nothing missing
    assert after == list(range(len(after)))
    assert node.rejected == []
    assert len(before) > 100


def test_a_run_that_is_over_is_not_sent_what_was_played_for_it(tmp_path, caplog):
    place, spool = Place(), tmp_path / "spool"
    first = Node(place)
    with playing(place, spool=spool, step_delay=0.001):
        until(lambda: first.listen() > 50)
        place.memory.down = True
        until(lambda: spooled(spool) > 0)
    left = spooled(spool)
    assert left > 0
    place.memory.down = False
    second = Node(place, run="next", kwargs={"length": 5})
    with playing(place, spool=spool):
        until(lambda: second.listen() > 50)
    assert second.rejected == []
    assert spooled(spool) == left  # until it is cleaned away


def test_the_same_life_delivers_it_too(tmp_path):
    place, spool = Place(), tmp_path / "spool"
    node = Node(place, fragment_seconds=0.2)
    with playing(place, spool=spool, step_delay=0.001):
        until(lambda: node.listen() > 50)
        place.memory.down = True
        until(lambda: spooled(spool) > 0)
        place.memory.down = False
        until(lambda: node.listen() > 500)
    node.listen()
    assert len(epochs(node)) == 1
    (steps,) = epochs(node).values()
    assert steps == list(range(len(steps)))
    assert node.of(Heartbeat)[-1].steps == len(steps)
    assert not spool.exists() or spooled(spool) == 0


def test_what_a_killed_server_had_not_written_yet_arrives_once_all_the_same(server, tmp_path):
    """The server has acknowledged entries that are not in its file, as on a busy disk."""
    node = Node(Place(server), fragment_seconds=0.2)
    (file,) = (tmp_path / "server").glob("appendonlydir/*.incr.aof")
    with client(server, tmp_path / "spool"):
        until(lambda: node.listen() > 100)
        read, written = node.listen(), file.stat().st_size
        until(lambda: file.stat().st_size > written + 10_000)
        kill(server)
        os.truncate(file, written)
        node.wire.close()
        server.restart()
        node.wire = Place(server).training()
        until(lambda: node.listen() > read + 500)
    (steps,) = epochs(node).values()
    assert steps == list(range(len(steps)))
    assert node.rejected == []
