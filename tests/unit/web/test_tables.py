"""Columns that grow: numbering, gaps, bounds, and readers that are not disturbed."""

import threading

import msgspec
import numpy as np

from soulsai.types import ClientStatus, Episode, Status
from soulsai.web import tables
from soulsai.web.tables import Episodes, Table, episode_row, sample_row


def episode(**changes):
    fields = {
        "generation": 1, "version": 3, "episode": 0, "reward": 2.5, "steps": 7, "seconds": 0.5,
        "terminated": True, "greedy": False, "epsilon": 0.1, "client": "one", "env_steps": 70,
        "time": 1000.0,
    }  # fmt: skip
    return Episode(**(fields | changes))


def test_rows_are_numbered_and_gaps_are_nan():
    table = Table()
    table.append({"time": 1.0, "env_steps": 10.0, "reward": 5.0})
    table.append({"time": 2.0, "env_steps": 20.0, "win": 1.0})
    columns = table.view().columns
    assert columns["number"].tolist() == [1, 2]
    assert columns["reward"][0] == 5.0
    assert np.isnan(columns["reward"][1])
    assert np.isnan(columns["win"][0])


def test_a_tally_keeps_what_a_person_took_over_apart():
    played = Episodes()
    for reward, greedy, taken_over in ((1.0, False, 0.0), (5.0, True, 0.0), (90.0, True, 3.0)):
        info = {"intervened": taken_over} if taken_over else {}
        played.add(episode(reward=reward, greedy=greedy, info=info))
    (tally,) = played.versions.values()
    assert (tally.episodes, tally.greedy_episodes, tally.intervened_episodes) == (3, 1, 1)
    assert (tally.exploring_mean, tally.greedy_mean) == (1.0, 5.0)
    assert tally.reward_mean == 32.0


def test_a_view_does_not_change():
    table = Table()
    for i in range(10):
        table.append({"time": float(i), "env_steps": float(i)})
    before = table.view()
    for i in range(5000):
        table.append({"time": float(i), "env_steps": float(i), "new": 1.0})
    assert len(before) == 10
    assert before.columns["time"].tolist() == list(range(10))
    assert table.view().columns["time"][:10].tolist() == list(range(10))


def test_memory_is_bounded_and_the_newest_rows_stay():
    table = Table(limit=4096)
    for i in range(100_000):
        table.append({"time": float(i), "env_steps": float(i)})
    numbers = table.view().columns["number"]
    assert len(numbers) <= 4096
    assert table.last == 100_000
    assert numbers[-1000:].tolist() == list(range(99_001, 100_001))
    assert numbers[0] == 1
    assert np.all(np.diff(numbers) > 0)
    old = numbers[: len(numbers) // 4]
    assert np.diff(old).max() < 10 * np.median(np.diff(old))


def test_columns_are_bounded():
    table = Table()
    table.append({"time": 0.0, "env_steps": 0.0} | {f"x{i}": float(i) for i in range(1000)})
    assert len(table.view().columns) == tables.MOST_COLUMNS


def test_many_columns_leave_room_for_fewer_rows(monkeypatch):
    monkeypatch.setattr(tables, "MOST_CELLS", 40_000)
    table = Table()
    for i in range(20_000):
        table.append({"time": float(i), "env_steps": float(i)})
    assert 6000 < len(table.view()) <= 40_000 // 3
    names = [f"x{i}" for i in range(1000)]
    for i in range(20_000, 30_000):
        table.append({"time": float(i), "env_steps": float(i), **dict.fromkeys(names, 1.0)})
        arrays, _ = table._state
        assert sum(map(len, arrays.values())) <= 40_000
    numbers = table.view().columns["number"]
    assert len(table.view().columns) == tables.MOST_COLUMNS
    assert numbers[-100:].tolist() == list(range(29_901, 30_001))
    assert numbers[0] == 1
    assert np.all(np.diff(numbers) > 0)
    assert table.view().columns["x0"][-1] == 1.0


def test_readers_see_whole_rows_only():
    table, over = Table(limit=8192), threading.Event()
    torn = []

    def read():
        while not over.is_set():
            columns = table.view().columns
            if len({len(column) for column in columns.values()}) > 1:
                torn.append("lengths")
            if not np.array_equal(columns["time"], columns["env_steps"]):
                torn.append("values")

    thread = threading.Thread(target=read)
    thread.start()
    for i in range(20_000):
        table.append({"time": float(i), "env_steps": float(i)})
    over.set()
    thread.join()
    assert not torn


def test_the_environment_cannot_hide_our_numbers():
    row = episode_row(episode(info={"reward": -1.0, "number": 9.0, "win": 1.0}))
    assert (row["reward"], row["info_reward"], row["info_number"], row["win"]) == (2.5, -1, 9, 1)


def test_claims_take_no_columns_from_the_honest():
    episodes = Episodes()
    for i in range(200):
        claimed = episode(reward=2.0, info={f"x{i}": 1.0, "depth": 9.0})
        episodes.add(msgspec.structs.replace(claimed, verified=False), {"solved": 1.0})
    assert not episodes.table.has("depth")
    episodes.add(episode(info={"depth": 1.0}))
    claimed = episode(reward=3.0, info={"depth": 5.0, "y": 1.0})
    episodes.add(msgspec.structs.replace(claimed, verified=False))
    columns = episodes.table.view().columns
    assert columns["depth"][-2:].tolist() == [1.0, 5.0]
    assert columns["reward"][0] == 2.0
    assert columns["solved"][0] == 1.0
    assert not {"y", *(f"x{i}" for i in range(200))} & set(columns)


def test_who_has_played_how_many():
    episodes = Episodes()
    for i in range(3):
        episodes.add(episode(reward=float(i), client="two" if i else "one"))
    assert episodes.clients["two"].episodes == 2
    assert episodes.clients["two"].reward == 3.0
    for i in range(2000):
        episodes.add(episode(client=f"c{i}"))
        episodes.add(episode(client="one"))
    assert len(episodes.clients) == tables.MOST_CLIENTS
    assert "c1999" in episodes.clients
    assert "two" not in episodes.clients, "of those beyond the bound, the longest quiet is dropped"
    assert episodes.clients["one"].episodes == 2001


def test_columns_keep_the_order_of_their_rows():
    names = ["time", "env_steps", *(f"m{i}" for i in range(20))]
    table = Table()
    table.append(dict.fromkeys(names, 1.0))
    assert list(table.view().columns) == ["number", *names]


def test_a_sample_of_the_training():
    client = ClientStatus("one", "active", 5.0, 10, 0, 0, 0, 4, 1, 0.1)
    status = Status(
        "run", 1, "learning", "dqn", "Toy-v0", env_steps=50, rejected={"stale": 2, "crc": 1},
        clients=(client, client), metrics={"loss": 0.5, "reward": 1.0, "nan": float("nan")},
    )  # fmt: skip
    row = sample_row(status, 9.0)
    assert (row["loss"], row["training_reward"]) == (0.5, 1.0)
    assert (row["rejected"], row["clients"], row["queued"]) == (3, 2, 8)
    assert "nan" not in row


def test_rates_begin_with_the_first_step_and_update():
    def names(**counts):
        return set(sample_row(Status("run", 1, "learning", "dqn", "Toy-v0", **counts), 9.0))

    assert names(env_steps=1) - names() == {"env_steps_per_second"}
    assert names(updates=1) - names() == {"updates_per_second", "replay_ratio"}
