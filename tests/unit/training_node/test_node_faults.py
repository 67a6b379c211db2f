"""What the training node does when the server, the disk or another node gets in its way."""

import errno
import json
import os
import time

import msgspec
import pytest

from soulsai.config.schema import TelemetrySettings
from soulsai.errors import CheckpointError, ServerFull, Superseded
from soulsai.training_node.client_table import ClientTable
from soulsai.training_node.saving import atomic_folders, state_file
from soulsai.types import Episode, RunSpec
from soulsai.wire.names import Keys
from tests.memory_server import MemoryServer
from tests.unit.training_node.node_cases import Counting, Node, Player, config, wait_for


@pytest.fixture
def server():
    return MemoryServer()


def saved(tmp_path):
    return [path.name for path in atomic_folders.numbered(next(tmp_path.iterdir()) / "checkpoints")]


def test_the_older_of_two_nodes_stops_and_saves_nothing(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4)
        node.told(lambda status: status.updates == 1)
        other = server.training()
        spec = player.spec
        began = time.monotonic()
        assert other.open(spec, player.wire.program(spec), fresh=False) == 2
        with pytest.raises(Superseded, match="newer training node has taken over"):
            node.join()
        node.error = None
        assert time.monotonic() - began < 2.0
    assert saved(tmp_path) == ["000000"], "nothing but the one of the start"


class Trimmed:
    """A training wire that only remembers what is to be deleted."""

    def __init__(self, server):
        self._wire = server.training()
        self.trimmed = []

    def __getattr__(self, name):
        return getattr(self._wire, name)

    def trim(self, upto):
        self.trimmed.append(upto)


def test_what_a_newer_node_needs_is_not_deleted(monkeypatch, server, tmp_path):
    wire = Trimmed(server)
    append = atomic_folders.append

    def append_and_be_superseded(*args, **options):
        path = append(*args, **options)
        if path.name == "000001":
            spec = player.spec
            server.training().open(spec, player.wire.program(spec), fresh=False)
        return path

    monkeypatch.setattr(atomic_folders, "append", append_and_be_superseded)
    with Node(monkeypatch, server, config(tmp_path, every=1), wire=wire) as node:
        player = Player(server)
        player.play(4)
        with pytest.raises(Superseded, match="newer training node has taken over"):
            node.join()
        node.error = None
    assert saved(tmp_path) == ["000000", "000001"]
    assert not any(wire.trimmed)


def test_a_node_that_takes_over_goes_on_from_the_last_checkpoint_of_the_older(
    monkeypatch, server, tmp_path
):
    with Node(monkeypatch, server, config(tmp_path)):
        player = Player(server)
        player.play(8)
        wait_for(lambda: player.wire.pointer().version > 1)
    folder = next(tmp_path.iterdir()) / "checkpoints"
    wire = server.training()
    opened = wire.open
    older = Counting()

    def open_late(*args, **kwargs):
        """The older node writes one more, after the newer has read what it found."""
        progress = json.loads(atomic_folders.read(folder / "000001", "progress.json"))
        older.names = [7.0] * 12
        files = {path.name: [path.read_bytes()] for path in (folder / "000001").iterdir()}
        files.pop(atomic_folders.MANIFEST)
        files["progress.json"] = [json.dumps({**progress, "env_steps": 12}).encode()]
        files["names.safetensors"] = list(state_file.encode(older.state_dict()))
        atomic_folders.append(folder, files, 3)
        return opened(*args, **kwargs)

    wire.open = open_late
    with Node(monkeypatch, server, config(tmp_path), wire=wire, resume="latest") as node:
        assert node.told(lambda status: status.generation == 2).env_steps == 12
        assert node.algorithm.names == older.names


def test_learning_goes_on_without_the_server_and_episodes_are_told_later(
    monkeypatch, server, tmp_path
):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4)
        node.told(lambda status: status.updates == 1)
        node.algorithm.before_update = lambda: setattr(server, "down", True)
        player.play(40, ended=True)
        wait_for(lambda: node.algorithm.updates == 11)
        assert server.down
        node.algorithm.before_update = lambda: None
        server.down = False
        node.told(lambda status: status.updates == 11 and not status.notice)
        (found,) = server.telemetry().episodes("0-0", 5.0)
        assert found[1].steps == 4 + 40
        player.play(4)
        node.told(lambda status: status.env_steps == 48)


def test_a_server_that_has_lost_everything_gets_the_run_again(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4)
        before = node.told(lambda status: status.updates == 1)
        server.link().execute("FLUSHALL")
        status = node.told(lambda status: status.generation > before.generation)
        assert status.env_steps == 4
        spec = player.wire.spec()
        assert spec == player.spec
        pointer = wait_for(player.wire.pointer)
        assert (pointer.generation, pointer.version > before.version) == (status.generation, True)
        player.play(4)
        node.told(lambda status: status.env_steps == 8)


class Full:
    """A training wire whose server has no room for a status beside entries of clients."""

    def __init__(self, server):
        self._server, self._wire = server, server.training()
        self.is_full = False

    def __getattr__(self, name):
        return getattr(self._wire, name)

    def report(self, status):
        if self.is_full and entries(self._server):
            raise ServerFull("OOM")
        self._wire.report(status)


def entries(server):
    """Return the number of entries in the player's stream."""
    return server.link().execute("XLEN", "soulsai:{soulsai}:exp:player")


def test_a_full_server_is_emptied_by_an_early_checkpoint(monkeypatch, server, tmp_path):
    wire = Full(server)
    with Node(monkeypatch, server, config(tmp_path), wire=wire) as node:
        player = Player(server)
        for _ in range(20):
            player.play(4)
        node.told(lambda status: status.env_steps == 80)
        assert saved(tmp_path) == ["000000"]
        wire.is_full = True
        wait_for(lambda: len(saved(tmp_path)) > 1)
        wait_for(lambda: entries(server) == 0)
        player.play(4)
        node.told(lambda status: status.env_steps == 84 and not status.notice)


def test_a_full_disk_is_noticed_and_training_goes_on(monkeypatch, server, tmp_path):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Node(monkeypatch, server, config(tmp_path, every=2)) as node:
        player = Player(server)
        player.play(8)
        node.told(lambda status: status.checkpoint == "000001")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            patch.setattr("soulsai.training_node.saving.saver.RETRY_SECONDS", 0.2)
            player.play(8)
            status = node.told(lambda status: "No space left" in status.notice)
            assert status.checkpoint == "000001"
            player.play(8)
            node.told(lambda status: status.updates == 6)
            assert saved(tmp_path) == ["000000", "000001"]
        node.told(lambda status: status.checkpoint == "000002" and not status.notice)


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(monkeypatch, server, tmp_path):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4)
        node.told(lambda status: status.updates == 1)
        monkeypatch.setattr(os, "fsync", full)
        node._stop.set()
        with pytest.raises(CheckpointError, match="No space left"):
            node.join()
        node.error = None


def test_checkpoints_let_go_of_what_they_cover(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path, every=2, keep=2)) as node:
        player = Player(server)
        for number in range(1, 5):
            player.play(8)
            node.told(lambda status, n=number: status.checkpoint == f"{n:06d}")
        wait_for(lambda: entries(server) == 0)
        assert saved(tmp_path) == ["000003", "000004"]


def resumed(monkeypatch, server, settings, **more):
    return Node(monkeypatch, server, settings, resume="latest", **more)


def test_a_killed_node_goes_on_and_counts_nothing_twice(monkeypatch, server, tmp_path):
    """What came after the checkpoint is read once more; what it covers is not."""
    settings = config(tmp_path, every=2)
    with Node(monkeypatch, server, settings) as first:
        player = Player(server)
        player.play(8)
        first.told(lambda status: status.checkpoint == "000001")
        player.lose()
        player.clock += 5
        player.play(4, ended=True)
        first.told(lambda status: status.env_steps == 12)
        # As if killed here: the last checkpoint is never written.
        monkeypatch.setattr("soulsai.training_node.saving.saver.Saver.final", lambda self: None)
    monkeypatch.undo()
    with resumed(monkeypatch, server, settings) as second:
        status = second.told(lambda status: status.env_steps == 12 and status.generation == 2)
        assert (status.updates, status.lost, status.episodes) == (3, 5, 1)
        assert second.algorithm.names == list(range(12))
        assert status.version > 1
        player.play(4)
        status = second.told(lambda status: status.env_steps == 16)
        assert (status.rejected, status.lost, status.duplicates) == ({}, 5, 0)
        pointer = player.pointer()
        assert pointer.order > (2, 1)


def test_a_run_goes_on_when_the_server_was_wiped(monkeypatch, server, tmp_path):
    settings = config(tmp_path)
    with Node(monkeypatch, server, settings) as node:
        Player(server).play(8)
        node.told(lambda status: status.updates == 2)
    (folder,) = tmp_path.iterdir()
    for past in range(2):
        before = node.status
        fresh = MemoryServer()
        with resumed(monkeypatch, fresh, settings) as node:
            Player(fresh).play(8)
            status = node.told(lambda status, n=past: status.env_steps == 16 + 8 * n)
            assert status.run == folder.name
            assert status.generation == before.generation + 1
            assert status.seconds > before.seconds
            assert fresh.client("x").pointer().order > (before.generation, before.version)


def test_leftover_experience_is_still_of_the_same_run(monkeypatch, server, tmp_path):
    settings = config(tmp_path)
    with Node(monkeypatch, server, settings) as first:
        player = Player(server)
        player.play(4)
        first.told(lambda status: status.updates == 1)
    player.play(4)  # while nobody listens
    with resumed(monkeypatch, server, settings) as second:
        second.told(lambda status: status.env_steps == 8)
        assert isinstance(player.wire.spec(), RunSpec)
        assert player.wire.spec().crc == player.spec.crc == player.spec.published_crc


def test_a_damaged_checkpoint_is_skipped_and_without_any_it_is_refused(
    monkeypatch, server, tmp_path, caplog
):
    settings = config(tmp_path, every=1)
    with Node(monkeypatch, server, settings) as node:
        player = Player(server)
        for number in (1, 2):
            player.play(4)
            node.told(lambda status, n=number: status.updates == n)
    (folder,) = tmp_path.iterdir()
    last = atomic_folders.numbered(folder / "checkpoints")[-1]
    damaged = last / "policy.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (folder / ".writing-best_model").mkdir()
    with resumed(monkeypatch, server, settings) as node:
        status = node.told(lambda status: status.notice)
        assert f"damaged are {last.name}: policy.safetensors is damaged" in status.notice
        assert "went back to checkpoint" in status.notice
    assert f"{last}" in caplog.text
    assert "policy.safetensors is damaged" in caplog.text
    assert not (folder / ".writing-best_model").exists()
    for path in atomic_folders.numbered(folder / "checkpoints"):
        (path / "manifest.json").unlink()
    with (
        pytest.raises(CheckpointError, match=r"cannot resume, all .* are damaged"),
        resumed(monkeypatch, server, settings) as node,
    ):
        node.join()


def test_a_run_that_is_not_there_is_refused_with_those_that_are(monkeypatch, server, tmp_path):
    with (
        pytest.raises(CheckpointError, match="newest runs: none"),
        resumed(monkeypatch, server, config(tmp_path)) as node,
    ):
        node.join()
    with Node(monkeypatch, server, config(tmp_path)):
        Player(server)
    (folder,) = tmp_path.iterdir()
    missing = Node(monkeypatch, server, config(tmp_path), resume="other")
    with pytest.raises(CheckpointError, match=folder.name), missing:
        missing.join()


def test_a_checkpoint_of_another_algorithm_is_refused(monkeypatch, server, tmp_path):
    with Node(monkeypatch, server, config(tmp_path)):
        Player(server)
    other = Counting()
    other.parts["optimizer"] = other
    with (
        pytest.raises(CheckpointError, match="this algorithm has names, optimizer, policy"),
        resumed(monkeypatch, server, config(tmp_path), algorithm=other) as node,
    ):
        node.join()


def test_too_many_unrecorded_episodes_are_counted(monkeypatch, server, tmp_path):
    monkeypatch.setattr("soulsai.training_node.status.PENDING", 2)
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.pointer()
        episode = Episode(1, 1, 0, 1.0, 4, 0.1, True, False, 0.0)
        player.say(*[msgspec.structs.replace(episode, episode=n) for n in range(5)])
        status = node.told(lambda status: status.episodes == 5)
    assert status.notice == "3 episodes were not recorded"


def test_keys_of_the_info_that_no_episode_gives_are_named(monkeypatch, server, tmp_path):
    asked = config(tmp_path)
    asked = msgspec.structs.replace(
        asked,
        environment=msgspec.structs.replace(asked.environment, info_keys=("souls", "boss_hp")),
        telemetry=TelemetrySettings(metrics={"deep": "info.depth > 3"}),
    )
    with Node(monkeypatch, server, asked) as node:
        player = Player(server)
        player.pointer()
        assert not node.told(bool).notice, "no episode has ended yet"
        episode = Episode(1, 1, 0, 1.0, 4, 0.1, True, False, 0.0, info={"souls": 3.0})
        player.say(episode)
        status = node.told(lambda status: status.episodes == 1)
        assert "no episode's info has had the numbers boss_hp, depth" in status.notice
        more = {"boss_hp": 1.0, "depth": 2.0}
        player.say(msgspec.structs.replace(episode, episode=1, info=more))
        node.told(lambda status: status.episodes == 2 and not status.notice)


def test_a_status_that_cannot_be_encoded_is_reduced_and_ends_nothing(monkeypatch, server, tmp_path):
    monkeypatch.setattr(ClientTable, "restarts", 2**70)
    with Node(monkeypatch, server, config(tmp_path, every=1)) as node:
        player = Player(server)
        player.play(4)
        status = node.told(lambda status: status.env_steps == 4 and status.checkpoint)
        assert "cannot be encoded" in status.notice
        assert (status.updates, status.clients) == (1, ())
        player.play(4)
        node.told(lambda status: status.env_steps == 8)
    assert node.status.phase == "stopping"


def test_a_version_that_a_killed_server_has_lost_is_published_again(monkeypatch, server, tmp_path):
    """A learner that waits for experience publishes nothing by itself."""
    link, key = server.link(), Keys("soulsai").model
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        first = player.pointer()
        older = link.execute("GET", key)
        player.play(4)
        newest = wait_for(
            lambda: player.pointer() if player.pointer().order > first.order else None
        )
        link.execute("SET", key, older)
        again = wait_for(
            lambda: player.pointer() if player.pointer().order > newest.order else None
        )
        node.told(lambda status: status.version == again.version)
        for _ in range(3):
            node.told()
        assert player.pointer().order == again.order  # once


def test_episodes_that_are_mere_claims_are_recorded_up_to_a_bound(monkeypatch, server, tmp_path):
    monkeypatch.setattr("soulsai.training_node.status.UNVERIFIED_AT_ONCE", 3)
    monkeypatch.setattr("soulsai.training_node.status.UNVERIFIED_PER_SECOND", 0.0)
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4, ended=True)
        for number in range(10):
            player.say(Episode(1, 1, 1000 + number, 1e6, 4, 1.0, True, False, 0.0))
        player.play(4, ended=True)
        status = node.told(lambda status: status.rejected.get("unverified", 0) == 7)
        status = node.told(lambda status: status.episodes == 5)
    assert status.reward_mean == sum(range(8)) / 2


def test_mere_claims_with_a_large_info_count_as_several(monkeypatch, server, tmp_path):
    monkeypatch.setattr("soulsai.training_node.status.UNVERIFIED_AT_ONCE", 6)
    monkeypatch.setattr("soulsai.training_node.status.UNVERIFIED_PER_SECOND", 0.0)
    info = {f"{number:02}{'x' * 60}": 1.0 for number in range(30)}  # over 2 kB
    with Node(monkeypatch, server, config(tmp_path)) as node:
        player = Player(server)
        player.play(4)
        node.told(lambda status: status.version >= 1)
        for number in range(10):
            player.say(Episode(1, 1, 1000 + number, 1e6, 4, 1.0, True, False, 0.0, info))
        status = node.told(lambda status: status.rejected.get("unverified", 0) == 8)
        assert status.episodes == 2


def test_a_status_that_is_too_large_is_sent_without_the_clients(monkeypatch, server, tmp_path):
    own = {f"{number:02}" + "\U0010ffff" * 60: "\U0010ffff" * 100 for number in range(16)}
    monkeypatch.setattr("soulsai.wire.training_role._STATUS_BYTES", 20_000)
    with Node(monkeypatch, server, config(tmp_path)) as node:
        players = [Player(server, name) for name in ("one", "two")]
        for player in players:
            player.play(4)
        assert len(node.told(lambda status: status.env_steps == 8).clients) == 2
        for player in players:
            player.beat(kwargs=own)
        status = node.told(lambda status: not status.clients)
        assert "bytes, beyond 20000" in status.notice
        players[0].play(4)
        node.told(lambda status: status.env_steps == 12)
