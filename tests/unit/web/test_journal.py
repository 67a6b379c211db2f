"""Samples and notes of a run: kept over restarts, whatever the last line looks like."""

import json

import msgspec
import pytest

from soulsai.types import Status
from soulsai.web.journal import EVENTS, LONGEST, MOST_NOTES, SAMPLES, Follower, Journal

STATUS = Status("run", 1, "learning", "dqn", "Toy-v0", env_steps=10, metrics={"loss": 0.5})


def test_it_is_there_again(tmp_path):
    journal = Journal(tmp_path)
    journal.sample(STATUS, 1.0)
    journal.note("phase", "a → b", 2.0, "somebody")
    again = Journal(tmp_path)
    assert again.samples.view().columns["loss"].tolist() == [0.5]
    assert list(again.notes) == list(journal.notes)
    assert again.note("phase", "b → c", 3.0).number == 2


@pytest.mark.parametrize("torn", [b'{"number":3,"ti', b"\xff", b"{}", b"[" * 5000 + b"\n"])
def test_a_damaged_line_costs_nothing_else(tmp_path, torn):
    Journal(tmp_path).note("phase", "one", 1.0)
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(torn)
    Journal(tmp_path).note("phase", "two", 2.0)
    assert [note.text for note in Journal(tmp_path).notes] == ["one", "two"]


def test_samples_get_rarer_the_longer_a_run_lasts(tmp_path):
    journal = Journal(tmp_path)
    young = [journal.sample(STATUS, float(time)) for time in range(10)]
    assert all(young)
    old = msgspec.structs.replace(STATUS, seconds=1e6)
    taken = sum(journal.sample(old, float(time)) is not None for time in range(100, 200))
    assert taken == pytest.approx(100 / LONGEST, abs=2)
    assert len((tmp_path / SAMPLES).read_text().splitlines()) == 10 + taken


def test_what_came_after(tmp_path):
    journal = Journal(tmp_path)
    for i in range(5):
        journal.note("client", str(i), float(i))
    assert [note.text for note in journal.after(3)] == ["3", "4"]
    assert journal.after(5) == []
    assert len(journal.after(0)) == 5


def test_memory_is_bounded(tmp_path):
    journal = Journal(tmp_path / "nowhere")  # which cannot be written, either
    for i in range(MOST_NOTES + 10):
        journal.notes.append(msgspec.structs.replace(_note(journal), number=i + 1))
    assert len(journal.notes) == MOST_NOTES
    assert journal.last == MOST_NOTES + 10


def test_a_full_disk_costs_lines_only(tmp_path, caplog):
    journal = Journal(tmp_path / "nowhere")
    assert journal.note("phase", "one", 1.0).number == 1
    assert journal.sample(STATUS, 1.0)
    assert "not written" in caplog.text


def test_a_reader_follows_a_writer(tmp_path):
    writer, reader = Journal(tmp_path), Journal(tmp_path)
    writer.note("phase", "one", 1.0)
    writer.sample(STATUS, 1.0)
    reader.refresh()
    reader.refresh()
    assert [note.text for note in reader.notes] == ["one"]
    assert len(reader.samples.view()) == 1


def test_only_whole_lines_are_followed(tmp_path):
    path = tmp_path / "lines"
    follower = Follower(path)
    assert follower.fresh() == ([], False)
    path.write_bytes(b"one\ntw")
    assert follower.fresh() == ([b"one\n"], False)
    path.write_bytes(b"one\ntwo\n")
    assert follower.fresh() == ([b"two\n"], False)
    path.write_bytes(b"new\n")
    assert follower.fresh() == ([b"new\n"], True)


def test_numbers_that_are_none_are_left_out(tmp_path):
    (tmp_path / SAMPLES).write_text(
        json.dumps({"time": 1.0, "env_steps": 2.0, "loss": None}) + "\n"
    )
    assert "loss" not in Journal(tmp_path).samples.view().columns


def _note(journal):
    return journal.notes[-1] if journal.notes else journal.note("phase", "x", 0.0)
