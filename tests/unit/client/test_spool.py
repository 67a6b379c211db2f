"""What waits on disk: bounded, in order, checked when it is read back, and never fatal."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from soulsai.client.spool import Spool, clean
from soulsai.client.unconfirmed import UnconfirmedEntries
from soulsai.errors import Unreachable
from soulsai.types import PROTOCOL, Fragment, Hello
from soulsai.wire.codec import decode_entry, encode_message, pack
from soulsai.wire.protocols import START, Position
from tests.memory_server import MemoryServer
from tests.unit.client.uplink_cases import PROGRAM, RUN, fragment

# In memory where possible: these tests commit thousands of times, and each waits for the disk.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture(scope="module")
def in_memory():
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


def entries(first, count, size=100, epoch=5):
    rng = random.Random(first)
    return [(Position(epoch, first + i), rng.randbytes(size)) for i in range(count)]


def everything(spool):
    found = []
    while some := spool.oldest():
        found += some
        spool.done(some)
    return found


def test_what_was_written_is_read_back_in_order_by_the_same_and_by_the_next(tmp_path):
    with_both = entries(1, 10) + entries(11, 5, size=300_000)
    spool = Spool(tmp_path, RUN, "one", 10**8)
    assert not spool
    assert spool.append(with_both[:7])
    assert spool.append(with_both[7:])
    spool.close()
    again = Spool(tmp_path, RUN, "one", 10**8)
    assert again
    assert everything(again) == with_both
    again.close()
    assert not list(tmp_path.iterdir())


def test_what_is_taken_comes_in_pieces(tmp_path):
    spool = Spool(tmp_path, RUN, "one", 10**8)
    spool.append(entries(1, 30, size=50_000))
    assert [len(spool.oldest(120_000)), len(spool.oldest(1))] == [2, 1]
    spool.done(spool.oldest(120_000))
    spool.append(entries(31, 2))
    assert [position.seq for position, _ in everything(spool)] == list(range(3, 33))
    spool.close()


def test_when_it_is_full_the_oldest_go(tmp_path):
    spool = Spool(tmp_path, RUN, "one", 100_000)
    for number in range(1, 401):
        spool.append(entries(number, 1, size=1000))
        assert spool.size <= 130_000
    left = [position.seq for position, _ in everything(spool)]
    assert left == list(range(401 - len(left), 401))
    assert 70 <= len(left) <= 100
    assert spool.dropped == 400 - len(left)
    spool.close()


def test_two_runs_and_two_clients_do_not_meet(tmp_path):
    one = Spool(tmp_path, RUN, "one", 10**8)
    one.append(entries(1, 3))
    assert not Spool(tmp_path, RUN, "two", 10**8)
    one.discard()
    assert not one
    one.close()


def test_another_spec_of_the_same_run_is_not_sent(tmp_path, caplog):
    one = Spool(tmp_path, RUN, "one", 10**8)
    one.append(entries(1, 3))
    one.close()
    other = msgspec.structs.replace(RUN, fragment_steps=RUN.fragment_steps + 1)
    assert everything(Spool(tmp_path, other, "one", 10**8)) == []
    assert "another run or damaged" in caplog.text


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_anywhere_costs_entries_and_gives_no_wrong_ones(in_memory, data):
    folder = Path(tempfile.mkdtemp(dir=in_memory))
    written = entries(1, 8, size=20_000)
    file = write(folder, written)
    raw = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans(), "cut"):
        raw = raw[:at]
    else:
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(bytes(raw))
    check_damage(folder, written)


def test_damage_of_any_bit_of_the_header_costs_entries_and_gives_no_wrong_ones(in_memory):
    folder = Path(tempfile.mkdtemp(dir=in_memory))
    written = entries(1, 2)
    file = write(folder, written)
    sound = file.read_bytes()
    for at in range(100):
        for bit in range(8):
            raw = bytearray(sound)
            raw[at] ^= 1 << bit
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(raw)
            check_damage(folder, written)


def write(folder, written):
    spool = Spool(folder, RUN, "one", 10**8)
    spool.append(written)
    spool.close()
    (file,) = folder.rglob("*.sqlite3")
    return file


def check_damage(folder, written):
    again = Spool(folder, RUN, "one", 10**8)
    found = everything(again)
    assert [entry for entry in written if entry in found] == found
    assert not again
    assert again.append(entries(20, 3))
    assert everything(again) == entries(20, 3)
    again.close()
    assert not list(folder.rglob("*.sqlite3"))


def test_a_damaged_entry_costs_only_itself(tmp_path, caplog):
    written = entries(1, 5)
    spool = Spool(tmp_path, RUN, "one", 10**8)
    spool.append(written)
    with spool._database as database:
        database.execute("UPDATE entries SET data = zeroblob(100) WHERE seq = 3")
    assert everything(spool) == written[:2] + written[3:]
    assert "damaged" in caplog.text
    spool.close()


def test_a_disk_that_refuses_is_told_and_not_fatal(tmp_path, caplog):
    (tmp_path / RUN.run).write_text("in the way")
    spool = Spool(tmp_path, RUN, "one", 10**8)
    assert not spool.append(entries(1, 3))
    assert "cannot be written" in caplog.text
    assert everything(spool) == []
    spool.close()


def test_a_full_disk_loses_nothing(tmp_path, caplog):
    written = entries(1, 40, size=50_000)
    spool = Spool(tmp_path, RUN, "one", 10**8)
    assert spool.append(written[:10])
    pages = spool._database.execute("PRAGMA page_count").fetchone()[0]
    spool._database.execute(f"PRAGMA max_page_count = {pages + 2}")
    for _ in range(3):
        assert not spool.append(written[10:20])
    assert "database or disk is full" in caplog.text
    assert spool.size == 500_000
    spool._database.execute("PRAGMA max_page_count = 1000000")
    assert spool.append(written[10:20])
    spool.close()
    again = Spool(tmp_path, RUN, "one", 10**8)
    assert again.append(written[20:])
    assert everything(again) == written
    again.close()


def test_a_file_that_is_no_database_is_removed(tmp_path, caplog):
    file = tmp_path / RUN.run / "one.sqlite3"
    file.parent.mkdir()
    file.write_bytes(b"nonsense" * 1000)
    spool = Spool(tmp_path, RUN, "one", 10**8)
    assert "cannot be read" in caplog.text
    assert spool.append(entries(1, 2))
    assert everything(spool) == entries(1, 2)


def test_the_folder_of_an_older_version_is_named_and_left(tmp_path, caplog):
    old = tmp_path / RUN.run / "one" / "5-1.spool"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"soulspl1")
    spool = Spool(tmp_path, RUN, "one", 10**8)
    assert f"spool={old.parent} is of an older version" in caplog.text
    spool.append(entries(1, 2))
    spool.close()
    assert old.exists()


def test_an_abandoned_file_is_removed_after_a_week(tmp_path):
    spool = Spool(tmp_path, RUN, "one", 10**8)
    spool.append(entries(1, 2))
    spool.close()
    (file,) = tmp_path.rglob("*.sqlite3")
    written = file.stat().st_mtime
    clean(tmp_path, written + 6 * 24 * 3600)
    assert file.exists()
    clean(tmp_path, written + 8 * 24 * 3600)
    assert not list(tmp_path.iterdir())
    clean(tmp_path / "nowhere")


class Lives(RuleBasedStateMachine):
    """Lives of one client, each sealing entries; pushes whose answers are lost; kills and restarts.

    Whatever happens, the server has each entry at most once; when the spool has been delivered it
    has all that was written, and nothing is there twice under two names.
    """

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.server = MemoryServer()
        node = self.server.training()
        node.open(RUN, PROGRAM, fresh=True)
        self.node, self.clock = node, 0
        self.written, self.sent = [], set()
        self.start()

    def start(self):
        self.wire = self.server.client("c")
        self.wire.spec()
        self.spool = Spool(self.folder, RUN, "c", 10**8)
        self.server.down = False
        self.spool.deliver(self.wire, UnconfirmedEntries())
        self.position = self.wire.hello(Hello(RUN.run, PROTOCOL, "", "", 1, RUN.crc))

    def seal(self):
        self.clock += 1
        self.position = Position(self.position.epoch, self.position.seq + 1)
        return self.position, pack([encode_message(fragment(self.clock), RUN)])

    @rule(count=st.integers(1, 5))
    def the_link_is_down_and_entries_are_spooled(self, count):
        sealed = [self.seal() for _ in range(count)]
        assert self.spool.append(sealed)
        self.written += [self.clock - count + 1 + i for i in range(count)]

    @precondition(lambda self: not self.spool)
    @rule(lost=st.booleans())
    def an_entry_is_pushed_and_its_answer_may_be_lost(self, lost):
        entry = self.seal()
        self.written.append(self.clock)
        if lost:  # the push was stored, and the client does not know; so it goes to the spool
            self.wire.push([entry])
            self.spool.append([entry])
        else:
            self.wire.push([entry])

    @precondition(lambda self: bool(self.spool))
    @rule(most=st.integers(1, 2000), answered=st.booleans())
    def some_are_drained(self, most, answered):
        some = self.spool.oldest(most)
        self.wire.push(some, retry=True)
        if answered:
            self.spool.done(some)

    @rule()
    def the_client_is_killed_and_started_again(self):
        if self.spool._database is not None:
            self.spool._database.close()  # as if killed: nothing was buffered
        self.wire.close()
        self.start()

    @rule()
    def the_client_is_started_again_and_cannot_reach_the_server_at_first(self):
        self.spool.close()
        self.wire.close()
        self.server.down = True
        spool = Spool(self.folder, RUN, "c", 10**8)
        with pytest.raises(Unreachable):
            self.server.client("c").push([(Position(1, 1), b"x")])
        if spool:
            with pytest.raises(Unreachable):
                spool.deliver(self.server.client("c"), UnconfirmedEntries())
        spool.close()
        self.server.down = False
        self.start()

    @invariant()
    def nothing_is_there_twice(self):
        clocks = self.clocks()
        assert len(clocks) == len(set(clocks))

    def clocks(self):
        found, after = [], {"c": START}
        while some := self.node.read(after, 0.0):
            found += [one for entry in some for one in decode_entry(entry, RUN)]
            after = {"c": some[-1].position}
        return [one.clock for one in found if isinstance(one, Fragment)]

    def teardown(self):
        while some := self.spool.oldest():
            self.wire.push(some, retry=True)
            self.spool.done(some)
        assert sorted(self.clocks()) == self.written
        self.spool.close()
        self.wire.close()
        self.node.close()
        shutil.rmtree(self.folder)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
