"""The record survives being cut off anywhere: nothing lost, nothing doubled."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import concat, read_json

from soulsai.episode_metrics import Meter, measure
from soulsai.errors import SoulsAIError
from soulsai.telemetry_node.record import FIRST, NAME, Record, RecordLine, order, read
from soulsai.types import Episode
from soulsai.web.journal import RecordReader


def episode(number: int, reward: float = 1.5) -> Episode:
    return Episode(
        generation=1,
        version=number,
        episode=number,
        reward=reward,
        steps=10,
        seconds=0.5,
        terminated=True,
        greedy=False,
        epsilon=0.25,
        info={"souls": 3.0},
        client="pc-ü",
        env_steps=10 * number,
        time=1e9 + number,
    )


def batch(*numbers: int) -> list[tuple[str, Episode]]:
    return [(f"{1000 + number}-{number}", episode(number)) for number in numbers]


def opened(folder: Path) -> tuple[Record, list[RecordLine]]:
    lines: list[RecordLine] = []
    return Record(folder, lines.append), lines


def test_what_was_appended_is_replayed(tmp_path: Path) -> None:
    record, lines = opened(tmp_path / "new" / "run")
    assert (lines, record.position) == ([], FIRST)
    record.append(batch(1, 2))
    record.append(batch(3), gap=True)
    assert record.position == "1003-3"
    record.close()

    record, lines = opened(tmp_path / "new" / "run")
    assert record.position == "1003-3"
    assert [line.id for line in lines] == ["1001-1", "1002-2", "1003-3"]
    assert [line.gap for line in lines] == [False, False, True]
    assert lines[0].reward == 1.5
    assert lines[0].info == {"souls": 3.0}
    assert lines[0].client == "pc-ü"
    record.close()


def test_a_line_is_flat_json_with_every_field(tmp_path: Path) -> None:
    record, _ = opened(tmp_path)
    record.append(batch(7))
    record.close()
    [line] = (tmp_path / NAME).read_text("utf-8").splitlines()
    fields = json.loads(line)
    assert set(fields) == {*Episode.__struct_fields__, "id"}
    assert (fields["id"], fields["env_steps"], fields["greedy"]) == ("1007-7", 70, False)


def test_ids_are_ordered_by_number() -> None:
    ids = ["9-9", "10-0", "10-2", "10-10", "100-0"]
    assert sorted([*ids[3:], *ids[:3]], key=order) == ids


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cut_anywhere_it_goes_on_from_its_last_line(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("record")
    record, _ = opened(folder)
    record.append(batch(*range(5)))
    record.close()
    path = folder / NAME
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut] + data.draw(st.sampled_from([b"", b"\0" * 50, b'{"id":"9'])))

    record, lines = opened(folder)
    assert len(lines) == whole[:cut].count(b"\n")
    record.append(batch(*range(len(lines), 5)))
    record.close()
    assert path.read_bytes() == whole
    assert len(list(read(path))) == 5


def test_a_damaged_line_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    record, _ = opened(tmp_path)
    record.append(batch(1, 2, 3))
    record.close()
    path = tmp_path / NAME
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"\xff{}\n" + b"[]\n" + third)
    record, lines = opened(tmp_path)
    assert [line.episode for line in lines] == [1, 3]
    assert record.position == "1003-3"
    record.close()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch) -> None:
    record, _ = opened(tmp_path)
    record.append(batch(1))
    before = record.path.read_bytes()

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def write(self, data) -> int:
            if len(data) < 300:
                raise OSError(28, "No space left on device")
            return self.file.write(data[:100])

        def __getattr__(self, name):
            return getattr(self.file, name)

    file = record._file
    monkeypatch.setattr(record, "_file", Full(file))
    with pytest.raises(OSError, match="No space"):
        record.append(batch(2, 3))
    assert record.path.read_bytes() == before
    assert record.position == "1001-1"

    monkeypatch.setattr(record, "_file", file)
    record.append(batch(2, 3))
    record.close()
    assert [line.episode for line in read(record.path)] == [1, 2, 3]


def test_only_one_process_writes(tmp_path: Path) -> None:
    record, _ = opened(tmp_path)
    with pytest.raises(SoulsAIError, match="another telemetry node"):
        opened(tmp_path)
    record.close()
    record.close()
    again, _ = opened(tmp_path)
    again.close()
    assert os.listdir(tmp_path) == [NAME]


def test_a_large_record_goes_on_in_another_file(tmp_path: Path) -> None:
    lines: list[RecordLine] = []
    record = Record(tmp_path, lines.append, largest=1000)
    for number in range(1, 31):
        record.append(batch(number), [{"win": float(number % 2)}])
    record.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) > 3
    assert names[0] == "results-0001.jsonl"
    assert names[-1] == NAME
    assert all(path.stat().st_size < 1500 for path in tmp_path.iterdir())

    record = Record(tmp_path, lines.append, largest=1000)
    assert [line.episode for line in lines] == list(range(1, 31))
    assert record.position == "1030-30"
    record.append(batch(31))
    record.close()
    frame = concat(read_json(part, lines=True) for part in sorted(tmp_path.glob("results*.jsonl")))
    assert list(frame["episode"]) == list(range(1, 32))
    assert frame["win"].mean() == 0.5
    assert [len(read.table.view()) for read in [RecordReader(tmp_path).read()]] == [31]


def test_a_reader_follows_into_the_next_file(tmp_path: Path) -> None:
    record = Record(tmp_path, lambda line: None, largest=1000)
    record.append(batch(1))
    reader = RecordReader(tmp_path, lambda: Meter([measure("even", "version == 2")]))
    assert reader.read().table.last == 1
    for number in range(2, 20):
        record.append(batch(number))
        assert reader.read().table.last == number
    record.close()
    assert reader.read().table.view().columns["even"].tolist() == [0.0, 1.0] + [0.0] * 17
