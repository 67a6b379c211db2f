"""A newer node takes over between an older one's look at who is newest and its trim."""

import threading

import pytest

from soulsai.errors import Superseded
from soulsai.training_node.saving import atomic_folders
from tests.memory_server import MemoryServer
from tests.unit.training_node.node_cases import PATIENCE, Node, Player, config, wait_for


class StandsStill:
    """A training wire that, when it is about to trim, waits until it is let go."""

    def __init__(self, server):
        self._wire = server.training()
        self.forget_events()

    def __getattr__(self, name):
        return getattr(self._wire, name)

    def forget_events(self):
        self.about_to, self.go_on, self.done = (threading.Event() for _ in range(3))

    def trim(self, upto):
        self.about_to.set()
        assert self.go_on.wait(PATIENCE)
        counts = self._wire.trim(upto)
        self.done.set()
        return counts


@pytest.mark.parametrize("late", [False, True], ids=["before it looks", "while it looks"])
def test_what_is_still_trimmed_is_in_the_checkpoint_that_the_newer_one_goes_on_from(
    monkeypatch, tmp_path, late
):
    """``late``: the older one saves once more after the newer has read what it found."""
    server = MemoryServer()
    wire, newer_wire = StandsStill(server), server.training()
    opened = newer_wire.open

    def save(*args, **kwargs):
        player.play(4)
        assert wire.about_to.wait(PATIENCE)
        return opened(*args, **kwargs) if args else None

    older = Node(monkeypatch, server, config(tmp_path, every=1), wire=wire)
    with older:
        player = Player(server)
        if late:
            wire.go_on.set()
            player.play(4)
            assert wire.done.wait(PATIENCE)
            wire.forget_events()
            newer_wire.open = save
        else:
            save()
        player.play(4)  # which nobody's checkpoint covers
        with Node(monkeypatch, server, config(tmp_path), wire=newer_wire, resume="latest") as newer:
            newer.told(lambda status: status.generation == 2)
            wire.go_on.set()
            assert wire.done.wait(PATIENCE)
            with pytest.raises(Superseded):
                older.join()
            older.error = None
            player.play(4)
            status = newer.told(lambda status: status.env_steps == player.named)
    assert (status.lost, status.duplicates) == (0, 0)
    assert newer.algorithm.names == list(range(player.named))


def test_what_an_older_node_writes_is_tidied_away_only_after_the_newer_owns_the_run(
    monkeypatch, tmp_path
):
    server = MemoryServer()
    newer_wire = server.training()
    opened = newer_wire.open
    found = []

    def take_over(*args, **kwargs):
        found.append(sorted(path.name for path in unfinished.iterdir()))
        return opened(*args, **kwargs)

    with Node(monkeypatch, server, config(tmp_path, every=1)):
        player = Player(server)
        player.play(4)
        saved = wait_for(lambda: list(tmp_path.glob("*/checkpoints/[0-9]*")), "a checkpoint")[0]
    unfinished = saved.with_name(f"{atomic_folders.TEMPORARY}999")
    unfinished.mkdir()
    (unfinished / "policy.onnx").write_bytes(b"half of it")
    newer_wire.open = take_over
    with Node(monkeypatch, server, config(tmp_path), wire=newer_wire, resume="latest") as newer:
        newer.told(lambda status: status.generation == 2)
    assert found == [["policy.onnx"]]
    assert not unfinished.exists()
