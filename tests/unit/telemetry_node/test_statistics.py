"""Averages, the best and the bounded history, against brute force."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soulsai.telemetry_node.statistics import Goal, History, Statistics, Window
from soulsai.types import Episode


def episode(reward: float, *, greedy: bool = False, version: int = 1, number: int = 0) -> Episode:
    return Episode(
        generation=1,
        version=version,
        episode=number,
        reward=reward,
        steps=number % 7 + 1,
        seconds=1.0,
        terminated=True,
        greedy=greedy,
        epsilon=0.1,
        env_steps=10 * number,
        time=1000.0 + number,
    )


rewards = st.floats(-1e6, 1e6)


@given(values=st.lists(rewards, max_size=60), size=st.integers(1, 9))
def test_a_window_is_the_mean_of_the_last(values: list[float], size: int) -> None:
    window = Window(size)
    assert window.mean is None
    for count, value in enumerate(values, 1):
        window.add(value)
        assert window.mean == pytest.approx(np.mean(values[:count][-size:]), rel=1e-9, abs=1e-6)
        assert window.full == (count >= size)


def test_a_window_forgets_rounding_errors() -> None:
    window = Window(3)
    for value in (1e16, 1.0, 1.0, 0.1, 0.2, 0.3):
        window.add(value)
    assert window.mean == math.fsum((0.1, 0.2, 0.3)) / 3


@settings(max_examples=60)
@given(
    plays=st.lists(st.tuples(rewards.map(round), st.booleans()), max_size=60),
    window=st.integers(1, 6),
)
def test_the_best_is_what_brute_force_finds(plays: list[tuple[int, bool]], window: int) -> None:
    statistics = Statistics(window)
    for number, (reward, greedy) in enumerate(plays, 1):
        new = episode(reward, greedy=greedy, version=number, number=number)
        statistics.add(new)

    averages: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
    shown: list[int] = []
    for number, (reward, greedy) in enumerate(plays, 1):
        if greedy:
            shown.append(reward)
            if len(shown) >= window:
                averages[True].append((sum(shown[-window:]) / window, number))
        if len(shown) < window and number >= window:
            recent = [reward for reward, _ in plays[number - window : number]]
            averages[False].append((sum(recent) / window, number))
    judged = averages[True] or averages[False]
    if not judged:
        assert statistics.best is None
        return
    assert statistics.best is not None
    score = max(score for score, _ in judged)
    assert statistics.best.score == pytest.approx(score, rel=1e-9, abs=1e-6)
    assert statistics.best.greedy == bool(averages[True])
    close = [
        number for value, number in judged if value == pytest.approx(score, rel=1e-9, abs=1e-6)
    ]
    assert statistics.best.version in close
    assert statistics.best.env_steps == 10 * statistics.best.version


def test_nothing_is_best_before_the_window_is_full() -> None:
    statistics = Statistics(3)
    assert [statistics.add(episode(reward)) for reward in (5, 5, 5, 5, 6, 0)] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]


def test_greedy_episodes_decide_alone_once_there_are_enough() -> None:
    statistics = Statistics(2)
    for reward in (100, 100):
        statistics.add(episode(reward))
    assert statistics.best is not None
    assert (statistics.best.score, statistics.best.greedy) == (100, False)
    statistics.add(episode(1, greedy=True, version=3))
    assert statistics.best.score == 100
    assert statistics.add(episode(3, greedy=True, version=4))
    assert (statistics.best.score, statistics.best.version, statistics.best.greedy) == (2, 4, True)
    assert not statistics.add(episode(1000, version=5))
    assert not statistics.add(episode(1000, version=6))
    assert statistics.best.score == 2


@settings(max_examples=40)
@given(values=st.lists(rewards, max_size=200), limit=st.sampled_from([2, 4, 8, 16]))
def test_history_keeps_sums_in_bounded_bins(values: list[float], limit: int) -> None:
    history = History(limit)
    for number, value in enumerate(values):
        history.add(episode(value, number=number))
    rows = history.rows()
    assert len(rows) <= limit
    counts = rows[:, 0]
    assert counts.sum() == len(values)
    assert np.all(counts[:-1] == history.width)
    ends = np.cumsum(counts).astype(int)
    for (count, env_steps, reward, squared, steps, time, _), end in zip(rows, ends, strict=True):
        part = values[end - int(count) : end]
        assert env_steps == 10 * (end - 1)
        assert time == 1000.0 + end - 1
        assert reward == pytest.approx(sum(part), rel=1e-9, abs=1e-6)
        assert squared == pytest.approx(sum(x * x for x in part), rel=1e-9, abs=1e-6)
        assert steps == sum(n % 7 + 1 for n in range(end - int(count), end))


@pytest.mark.parametrize(
    ("goal", "best"),
    [
        (Goal("steps"), 6.5),
        (Goal("steps", smaller=True), 1.5),
        (Goal("win"), 1.0),
        (Goal("fell", smaller=True), 0.0),
    ],
)
def test_the_best_is_best_in_what_is_asked_for(goal: Goal, best: float) -> None:
    statistics = Statistics(2, goal)
    for number in range(14):
        measured = {"win": float(number in (4, 5)), "fell": float(number not in (8, 9))}
        statistics.add(episode(0.0, number=number, version=number), measured)
    assert statistics.best
    assert statistics.best.score == best


def test_what_a_person_took_over_has_a_history_of_its_own() -> None:
    statistics = Statistics(2)
    steered = msgspec.structs.replace(episode(9.0), info={"intervened": 1.0})
    for one in (episode(1.0), steered, msgspec.structs.replace(steered, greedy=True)):
        statistics.add(one, ranked=one.kind != "intervened")
    sizes = {kind: len(history.rows()) for kind, history in statistics.histories.items()}
    assert sizes == {"exploring": 1, "greedy": 0, "intervened": 2}


def test_what_cannot_be_measured_is_never_best() -> None:
    statistics = Statistics(2, Goal("win"))
    for number in range(5):
        assert not statistics.add(episode(1.0, number=number))
    assert statistics.best is None


def test_one_absurd_reward_is_never_the_best() -> None:
    statistics = Statistics(20)
    for number in range(100):
        reward = 1e30 if number == 50 else float(number)
        statistics.add(episode(reward, number=number, version=number))
    assert statistics.best is not None
    assert statistics.best.score == pytest.approx(89.5)
    assert statistics.best.version == 99


def test_a_rare_success_counts() -> None:
    statistics = Statistics(20)
    for number in range(60):
        statistics.add(episode(100.0 if number == 40 else 0.0, number=number, version=number))
    assert statistics.best is not None
    assert statistics.best.score == pytest.approx(5.0)
