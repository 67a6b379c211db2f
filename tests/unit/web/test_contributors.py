"""Who has played how much: counted once, whatever plays side by side, and over all runs."""

import msgspec
import pytest

from soulsai.types import Episode
from soulsai.web.contributors import (
    ContributionReader,
    contributor_rows,
    csv_rows,
    together,
)
from soulsai.web.queries import table_csv


def episode(client, time, seconds=10.0, steps=100):
    return Episode(
        1, 1, 0, 5.0, steps, seconds, True, False, 0.0, client=client, time=time
    )  # fmt: skip


def write(folder, *episodes, name="results.jsonl"):
    folder.mkdir(exist_ok=True)
    with (folder / name).open("ab") as file:
        file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in episodes))


def test_time_side_by_side_counts_once_and_pauses_do_not_count(tmp_path):
    write(
        tmp_path,
        episode("a", 110.0), episode("a", 110.0), episode("a", 115.0),  # three at a time
        episode("a", 200.0),
        episode("b", 120.0),
    )  # fmt: skip
    mine = ContributionReader(tmp_path).read()["a"]
    assert (mine.env_steps, mine.episodes) == (400, 4)
    assert mine.seconds == pytest.approx(15.0 + 10.0)
    assert mine.span == pytest.approx(100.0)
    first, second = contributor_rows(ContributionReader(tmp_path).read())
    assert (first.client, first.rank, first.share) == ("a", 1, 0.8)
    assert first.uptime == pytest.approx(0.25)
    assert first.hours == pytest.approx(25 / 3600)
    assert (second.client, second.uptime) == ("b", 1.0)


def test_what_is_appended_is_added_and_a_new_file_of_the_record_continues_it(tmp_path):
    reader = ContributionReader(tmp_path)
    assert reader.read() == {}
    write(tmp_path, episode("a", 100.0))
    assert reader.read()["a"].episodes == 1
    write(tmp_path, episode("a", 120.0))
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(b'\xff\n{"client":"a"}\n{"client":"a","ste')
    assert reader.read()["a"].episodes == 2
    (tmp_path / "results.jsonl").rename(tmp_path / "results-0001.jsonl")
    write(tmp_path, episode("a", 140.0))
    assert reader.read()["a"].episodes == 3


def test_all_runs_add_up(tmp_path):
    write(tmp_path / "one", episode("a", 100.0), episode("b", 100.0, steps=50))
    write(tmp_path / "two", episode("a", 9000.0))
    every = together(ContributionReader(tmp_path / name).read() for name in ("one", "two"))
    rows = contributor_rows(every)
    assert [(row.client, row.env_steps, row.runs) for row in rows] == [("a", 200, 2), ("b", 50, 1)]
    assert sum(row.share for row in rows) == pytest.approx(1.0)


def test_a_name_that_is_a_formula_is_text_in_the_file(tmp_path):
    write(tmp_path, episode("=1+1", 100.0))
    text = table_csv(csv_rows(contributor_rows(ContributionReader(tmp_path).read())))
    assert text.splitlines()[0] == "rank,client,env_steps,share,episodes,hours,uptime,runs"
    assert text.splitlines()[1].startswith("1,'=1+1,100,1.0,1,")
