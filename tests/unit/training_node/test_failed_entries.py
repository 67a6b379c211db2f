"""An entry whose handling raises ends a node at most twice; what was learnt before it is kept."""

import msgspec
import pytest

from soulsai.training_node.failed_entries import JOURNAL, SET_ASIDE, FailedEntries
from soulsai.training_node.status import TrainingStatistics
from soulsai.wire.limits import MessageLimits
from soulsai.wire.protocols import Entry, Position
from tests.memory_server import MemoryServer
from tests.unit.training_node.node_cases import Counting, Node, Player, config, wait_for

BAD = 8  # the name of the env step that nobody can handle


@pytest.fixture
def server():
    return MemoryServer()


def fails(method):
    """Return a method that raises for fragments of which one begins with the bad step."""

    def failing(self, fragments):
        if any(fragment.reward[0] == BAD for fragment in fragments):
            raise RuntimeError("a bug")
        return method(self, fragments)

    return failing


def fails_with(method):
    """Return a method that raises where one of the fragments begins with the bad step."""

    def failing(self, arrival, fragments):
        if any(fragment.reward[0] == BAD for fragment in fragments):
            raise RuntimeError("a bug")
        return method(self, arrival, fragments)

    return failing


def crash(monkeypatch, server, settings, **more):
    """Run a node until it ends by its bug."""
    with Node(monkeypatch, server, settings, **more) as node:
        with pytest.raises(RuntimeError, match="a bug"):
            node.join()
        node.error = None
    return node


def test_an_entry_that_fails_twice_while_it_is_read_is_set_aside(monkeypatch, server, tmp_path):
    monkeypatch.setattr(MessageLimits, "_arrays", fails(MessageLimits._arrays))
    settings = config(tmp_path)
    with Node(monkeypatch, server, settings) as node:
        player = Player(server)
        player.play(4)
        player.play(4)
        node.told(lambda status: status.env_steps == 8)
        player.play(4)
        bad = player.position
        player.play(4)
        with pytest.raises(RuntimeError, match="a bug"):
            node.join()
        node.error = None
    crash(monkeypatch, server, settings, resume="latest")
    (folder,) = tmp_path.iterdir()
    assert not (folder / SET_ASIDE).exists()
    with Node(monkeypatch, server, settings, resume="latest") as node:
        status = node.told(lambda status: status.env_steps == 12)
        assert status.rejected == {"failed": 1}
        player.play(4)
        node.told(lambda status: status.env_steps == 16)
    assert node.algorithm.names == [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 16, 17, 18, 19]
    (kept,) = (folder / SET_ASIDE).iterdir()
    assert kept.name == f"player_{bad.epoch}-{bad.seq}.bin"
    assert kept.stat().st_size > 50
    (noted,) = msgspec.json.decode((folder / JOURNAL).read_bytes())
    assert (noted["client"], noted["seq"], noted["failures"]) == ("player", bad.seq, 2)
    assert noted["error"] == "RuntimeError: a bug"


def test_what_came_before_a_failed_arrival_is_learnt_and_saved(monkeypatch, server, tmp_path):
    monkeypatch.setattr(TrainingStatistics, "arrived", fails_with(TrainingStatistics.arrived))
    settings = config(tmp_path)
    with Node(monkeypatch, server, settings) as node:
        player = Player(server)
        for _ in range(4):
            player.play(4)
        with pytest.raises(RuntimeError, match="a bug"):
            node.join()
        node.error = None
    assert node.algorithm.names == list(range(8))
    crash(monkeypatch, server, settings, resume="latest")
    with Node(monkeypatch, server, settings, resume="latest") as node:
        assert node.told(lambda status: status.env_steps == 12).rejected == {"failed": 1}
    assert node.algorithm.names == [*range(8), *range(12, 16)]


class Failing(Counting):
    """An algorithm that cannot learn from one fragment."""

    def learn(self, arrivals):
        def checked():
            for fragments in arrivals:
                if any(fragment.reward[0] == BAD for fragment in fragments):
                    raise RuntimeError("a bug")
                yield fragments

        yield from super().learn(checked())


def test_an_exception_of_the_algorithm_saves_first_and_names_the_entries(
    monkeypatch, server, tmp_path
):
    with Node(monkeypatch, server, config(tmp_path), algorithm=Failing()) as node:
        player = Player(server)
        player.play(4)
        player.play(4)
        wait_for(lambda: node.algorithm.updates == 2)
        player.play(4)
        with pytest.raises(RuntimeError, match="a bug"):
            node.join()
        node.error = None
    (folder,) = tmp_path.iterdir()
    assert (folder / "checkpoints" / "000001" / "manifest.json").is_file()
    (noted,) = msgspec.json.decode((folder / JOURNAL).read_bytes())
    assert (noted["seq"], noted["failures"]) == (player.position.seq, 1)


def test_a_damaged_journal_is_ignored(tmp_path):
    (tmp_path / JOURNAL).write_bytes(b"{")
    failed = FailedEntries(tmp_path)
    entry = Entry("c", Position(1, 1), b"x")
    for _ in range(2):
        assert not failed.is_spent(entry)
        failed.note([("c", Position(1, 1))], ValueError())
    assert failed.is_spent(entry)
    assert FailedEntries(tmp_path).is_spent(entry)


def test_the_bytes_kept_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr("soulsai.training_node.failed_entries.MOST_FILES", 2)
    failed = FailedEntries(tmp_path)
    for seq in range(5):
        failed.note([("c", Position(1, seq))], ValueError())
        failed.set_aside(Entry("c", Position(1, seq), b"x"))
    assert len(list((tmp_path / SET_ASIDE).iterdir())) == 2
