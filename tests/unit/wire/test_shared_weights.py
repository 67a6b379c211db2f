"""Clients of one user on one machine download a version once, and trust nothing but its digest."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from soulsai.errors import Unreachable, WireError
from soulsai.types import Pointer, Weights
from soulsai.wire import shared_weights
from soulsai.wire.shared_weights import KEPT_SECONDS, KEPT_VERSIONS, SharedWeights
from soulsai.wire.weights import digest

SIZE = 5000
HOLDER = """
import sys
from pathlib import Path
from tests.unit.wire.test_shared_weights import Player
def hang():
    print("begun", flush=True)
    sys.stdin.read()
Player(Path(sys.argv[1])).take(1, before=hang)
"""


def content(version: int, size: int = SIZE) -> bytes:
    return bytes([version % 256]) * size


class Player:
    """A client that counts what it downloads."""

    def __init__(self, folder, limit=10**6, **options):
        self.shared = SharedWeights(folder / "weights", limit, **options)
        self.downloads = []

    def take(self, version, size=SIZE, before=lambda: None, run="run-1"):
        data = content(version, size)
        pointer = Pointer(run, 1, version, size, digest(data))

        def download():
            self.downloads.append(version)
            before()
            return data

        def decode(found):
            if digest(found) != pointer.sha256:
                raise WireError("arrived damaged")
            return Weights(run, 1, version, {"all": found})

        got = self.shared.weights(pointer, size, download, decode)
        assert got.arrays["all"] == data
        return got


def file_in(folder):
    (found,) = (folder / "weights").glob("*.sqlite3")
    return found


def test_of_many_clients_one_downloads_each_version(tmp_path):
    players = [Player(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(len(players)) as threads:
        for version in range(1, 21):
            together = threading.Barrier(len(players))

            def take(player, version=version, together=together):
                together.wait(30)
                player.take(version)

            list(threads.map(take, players))
    downloads = [version for player in players for version in player.downloads]
    assert sorted(downloads) == list(range(1, 21))
    assert sum(player.shared.downloaded for player in players) == 20 * SIZE
    assert sum(player.shared.shared for player in players) == 7 * 20 * SIZE


def test_the_file_and_its_folder_are_the_user_s_alone(tmp_path):
    Player(tmp_path).take(1)
    assert stat.S_IMODE(file_in(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == 0o700


def test_a_kill_in_the_middle_of_a_download_leaves_the_others_working(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "begun\n"
    waiting = threading.Event()

    def sleep(seconds):
        waiting.set()
        time.sleep(seconds)

    players = [Player(tmp_path, sleep=sleep) for _ in range(3)]
    with ThreadPoolExecutor(len(players)) as threads:
        done = threads.map(lambda player: player.take(1), players)
        assert waiting.wait(30)
        assert [player.downloads for player in players] == [[], [], []]
        holder.send_signal(signal.SIGKILL)
        list(done)
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert sum(len(player.downloads) for player in players) == 1


def test_a_client_that_does_not_get_on_is_not_waited_for_for_long(tmp_path, caplog):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    late = Player(tmp_path, clock=lambda: now[0], sleep=sleep)
    other = Player(tmp_path)
    other.take(1, before=lambda: late.take(1))
    assert late.downloads == [1]
    assert 5.0 < now[0] < 5.1
    assert "does not get on" in caplog.text
    other.take(2)
    late.take(2)  # for a minute it does not even look
    assert late.downloads == [1, 2]
    now[0] += 61.0
    other.take(3)
    late.take(3)
    assert late.downloads == [1, 2]


def test_an_error_of_the_download_is_raised_and_the_next_one_tries(tmp_path):
    one, two = Player(tmp_path), Player(tmp_path)

    def fail():
        raise Unreachable("gone")

    with pytest.raises(Unreachable):
        one.take(1, before=fail)
    two.take(1)
    assert two.downloads == [1]
    one.take(1)
    assert one.downloads == [1]


def damage_row(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE weights SET data = ?", (content(9),))
    database.close()


def text_row(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE weights SET data = ?", ("x" * SIZE,))
    database.close()


def other_table(path):
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE weights RENAME COLUMN data TO other")
    database.close()


def garbage(path):
    path.write_bytes(b"no database" * 5000)


def short(path):
    path.write_bytes(path.read_bytes()[:40_000])


@pytest.mark.parametrize("damage", [damage_row, text_row, other_table, garbage, short])
def test_a_damaged_or_foreign_file_is_never_trusted(tmp_path, damage):
    now = [0.0]
    Player(tmp_path).take(1)
    damage(file_in(tmp_path))
    player = Player(tmp_path, clock=lambda: now[0])
    player.take(1)
    assert player.downloads == [1]
    now[0] += 61.0
    player.take(2)
    after = Player(tmp_path)
    after.take(2)
    assert after.downloads == [], "there is a good file again"


PRIVATE = pytest.mark.skipif(sys.platform == "win32", reason="its cache folders are private")


def open_to_all(path):
    path.chmod(0o644)


def open_folder(path):
    path.parent.chmod(0o755)


def link(path):
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@PRIVATE
@pytest.mark.parametrize("change", [open_to_all, open_folder, link])
def test_a_file_that_others_may_have_written_is_left_alone(tmp_path, change, caplog):
    Player(tmp_path).take(1)
    path = file_in(tmp_path)
    change(path)
    before = path.read_bytes()
    player = Player(tmp_path)
    player.take(1)
    player.take(2)
    assert player.downloads == [1, 2]
    assert path.read_bytes() == before
    assert caplog.text.count("is not private to this user") == 1


@PRIVATE
def test_a_file_of_another_user_is_not_read(tmp_path, monkeypatch):
    Player(tmp_path).take(1)
    user = os.geteuid()
    monkeypatch.setattr(shared_weights.os, "geteuid", lambda: user + 1)
    player = Player(tmp_path)
    player.take(1)
    assert player.downloads == [1]


def test_the_file_is_bounded(tmp_path):
    player = Player(tmp_path, limit=3 * SIZE)
    for version in range(1, 40):
        player.take(version)
    assert file_in(tmp_path).stat().st_size < 10 * 32768
    other = Player(tmp_path, limit=3 * SIZE)
    for version in (39, 38, 37, 36):
        other.take(version)
    assert other.downloads == [36]
    assert KEPT_VERSIONS >= 3
    player.take(50, size=3 * SIZE + 1)
    other.take(50, size=3 * SIZE + 1)
    assert other.downloads == [36, 50], "too large to be shared"


def test_runs_have_files_of_their_own_and_old_ones_go(tmp_path):
    player = Player(tmp_path)
    player.take(1)
    old = file_in(tmp_path)
    player.take(1, run="run-2")
    assert player.downloads == [1, 1]
    assert len([*old.parent.iterdir()]) == 4  # each with its journal, which is empty
    long_ago = time.time() - KEPT_SECONDS - 60
    for path in old.parent.iterdir():
        os.utime(path, (long_ago, long_ago))
    Player(tmp_path).take(1, run="run-3")
    assert len([*old.parent.glob("*.sqlite3")]) == 1
    player.take(2, run="run-2")  # its file is gone, and is made anew
    other = Player(tmp_path)
    other.take(2, run="run-2")
    assert other.downloads == []
