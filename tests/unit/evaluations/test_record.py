"""The record of evaluations outlives torn lines, foreign lines and full disks."""

import errno
from io import FileIO

import msgspec
import pytest

from soulsai.evaluations import record
from soulsai.evaluations.record import (
    EvaluationLine,
    EvaluationReader,
    Evaluations,
    EvaluatorState,
    append,
    awaits,
    measured,
    read_state,
    write_state,
)


def line(number, model="000001", verdict="no better", returns=(1.0, 2.0, 3.0, 4.0)):
    blank = EvaluationLine(number, float(number), model, 1, number, 10 * number, verdict)
    seeds = tuple(range(len(returns)))
    return measured(msgspec.structs.replace(blank, returns=returns, seeds=seeds))


def test_what_was_appended_is_read_once(tmp_path):
    reader = EvaluationReader(tmp_path)
    assert reader.fresh() == []
    lines = [line(1, verdict="first"), line(2, "000002")]
    for each in lines:
        append(tmp_path, each)
    assert reader.fresh() == lines
    assert reader.fresh() == []
    append(tmp_path, line(3))
    assert [each.number for each in reader.fresh()] == [3]


def test_a_torn_last_line_is_left_for_later_and_a_new_line_is_not_glued_to_it(tmp_path):
    append(tmp_path, line(1))
    with (tmp_path / record.NAME).open("ab") as file:
        file.write(b'{"number":2,"time"')
    reader = EvaluationReader(tmp_path)
    assert [each.number for each in reader.fresh()] == [1]
    append(tmp_path, line(3))  # by the evaluator's next process
    assert [each.number for each in reader.fresh()] == [3]


def test_foreign_lines_are_passed_over_and_long_ones_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "LONGEST_LINE", 1000)
    append(tmp_path, line(1))
    with (tmp_path / record.NAME).open("ab") as file:
        file.write(b"\xff\xfe\n[]\n" + b'{"number": "' + b"9" * 5000 + b'"}\n')
    append(tmp_path, line(2))
    assert [each.number for each in EvaluationReader(tmp_path).fresh()] == [1, 2]


def test_a_record_that_was_replaced_is_read_anew(tmp_path):
    reader = EvaluationReader(tmp_path)
    for number in (1, 2, 3):
        append(tmp_path, line(number))
    assert len(reader.fresh()) == 3
    (tmp_path / record.NAME).unlink()
    append(tmp_path, line(7))
    assert [each.number for each in reader.fresh()] == [7]


def test_a_large_record_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "PIECE", 2000)
    for number in range(1, 41):
        append(tmp_path, line(number, f"{number:06d}"))
    reader = EvaluationReader(tmp_path)
    assert len(reader.fresh()) < 40
    evaluations = Evaluations(tmp_path)
    assert [each.number for each in evaluations.refresh()] == [*range(1, 41)]
    assert evaluations.last == 40


def test_a_full_disk_leaves_the_record_as_it_was(tmp_path, monkeypatch):
    append(tmp_path, line(1))
    before = (tmp_path / record.NAME).read_bytes()

    class Full(FileIO):
        def write(self, data):
            super().write(bytes(data)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", lambda path, mode="r", **_: Full(path, mode))
    with pytest.raises(OSError, match="No space"):
        append(tmp_path, line(2))
    assert (tmp_path / record.NAME).read_bytes() == before


def test_the_last_line_of_a_model_counts_and_the_best_is_the_last_one_that_was_chosen(tmp_path):
    evaluations = Evaluations(tmp_path)
    append(tmp_path, line(1, "000000", "first"))
    evaluations.refresh()
    assert not evaluations.rules, "a single model has beaten nobody"
    append(tmp_path, line(2, "000001", "candidate"))
    append(tmp_path, line(3, "000000", "first", (5.0, 6.0, 7.0, 8.0)))  # it has played more seeds
    evaluations.refresh()
    assert (evaluations.best.number, evaluations.first.number) == (3, 1)
    append(tmp_path, line(4, "000001", "best"))
    evaluations.refresh()
    assert evaluations.rules
    assert evaluations.best.model == "000001"
    assert [*evaluations.models] == ["000000", "000001"]
    assert evaluations.best.returns
    assert not evaluations.models["000001"].returns, "episodes are kept of few"


def test_models_with_names_that_are_no_folders_are_no_lines_of_ours(tmp_path):
    append(tmp_path, msgspec.structs.replace(line(1), model="../../etc"))
    assert EvaluationReader(tmp_path).fresh() == []


def test_the_training_node_waits_for_the_last_checkpoint_of_a_living_evaluator(tmp_path):
    assert not awaits(tmp_path, "000004", now=100.0)
    write_state(tmp_path, EvaluatorState(100.0, doing="plays 000004"))
    assert awaits(tmp_path, "000004", now=101.0)
    assert not awaits(tmp_path, "000004", now=100.0 + record.SILENT_SECONDS + 1), "it is dead"
    assert not awaits(tmp_path, "", now=101.0), "nothing was saved"
    for state in (
        EvaluatorState(100.0, finished=("000003", "000004")),
        EvaluatorState(100.0, ended=True),
        EvaluatorState(100.0, request="000004"),
        EvaluatorState(100.0, every=3),
    ):
        write_state(tmp_path, state)
        assert not awaits(tmp_path, "000004", now=101.0), state
    (tmp_path / record.STATE).write_bytes(b"{")
    assert read_state(tmp_path) is None
