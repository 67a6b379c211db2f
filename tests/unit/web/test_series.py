"""Curves: rolling means against brute force, the axis, and points that keep the shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soulsai.web import series
from soulsai.web.series import SeriesQuery, bands, curves, downsampled, has, joined, lttb, rolling
from soulsai.web.tables import Table

numbers = st.floats(-1e6, 1e6) | st.just(np.nan)
columns = st.integers(1, 60).flatmap(lambda n: arrays(float, n, elements=numbers))


def table(rewards, *, env_steps=None, greedy=None, time=None, **more):
    answer = Table()
    for i, reward in enumerate(rewards):
        answer.append(
            {
                "env_steps": 10.0 * (i + 1) if env_steps is None else env_steps[i],
                "time": 100.0 + i if time is None else time[i],
                "reward": reward,
                "greedy": 0.0 if greedy is None else greedy[i],
                **{name: column[i] for name, column in more.items()},
            }
        )
    return answer.view()


@given(columns, st.integers(1, 70))
def test_rolling_is_what_a_loop_computes(values, window):
    mean, deviation = rolling(values, window)
    for i in range(len(values)):
        some = values[max(0, i + 1 - window) : i + 1]
        some = some[np.isfinite(some)]
        if len(some) == 0:
            assert np.isnan(mean[i])
            continue
        assert mean[i] == pytest.approx(some.mean(), rel=1e-9, abs=1e-4)
        assert deviation[i] == pytest.approx(some.std(), rel=1e-3, abs=0.1)


def slow_lttb(x, y, points):
    """The algorithm as its author wrote it, with loops."""
    n = len(x)
    edges = np.linspace(1, n - 1, points - 1).astype(int)
    chosen = [0]
    for i in range(points - 2):
        if i + 2 < len(edges):
            after = slice(edges[i + 1], edges[i + 2])
            cx, cy = x[after].mean(), y[after].mean()
        else:
            cx, cy = x[-1], y[-1]
        a = chosen[-1]
        best = max(
            range(edges[i], edges[i + 1]),
            key=lambda j: abs((x[j] - x[a]) * (cy - y[a]) - (y[j] - y[a]) * (cx - x[a])),
        )
        chosen.append(best)
    return [*chosen, n - 1]


@given(st.integers(4, 300), st.integers(3, 100), st.integers(0, 2**32 - 1))
def test_lttb_is_what_a_loop_computes(n, points, seed):
    rng = np.random.default_rng(seed)
    x, y = np.cumsum(rng.uniform(0.1, 2, n)), rng.normal(size=n)
    if points < n:
        assert lttb(x, y, points).tolist() == slow_lttb(x, y, points)
    else:
        assert lttb(x, y, points).tolist() == list(range(n))


def test_a_peak_is_kept():
    y = np.zeros(100_000)
    y[54_321] = 1.0
    assert 54_321 in lttb(np.arange(100_000.0), y, 100)


@settings(max_examples=50)
@given(st.integers(0, 500), st.integers(2, 50), st.integers(0, 2**32 - 1))
def test_never_more_points_than_asked_for(n, points, seed):
    rng = np.random.default_rng(seed)
    curves = [np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)) for _ in range(3)]
    chosen = downsampled(np.arange(float(n)), curves, points)
    assert len(chosen) <= max(points, 2)
    assert np.all(np.diff(chosen) > 0)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=80),
    st.sampled_from(["env_steps", "number", "time"]),
    st.integers(2, 40),
    st.sampled_from(["all", "exploring", "greedy", "intervened"]),
)
def test_the_axis_ascends_strictly(steps, x, points, kind):
    view = table(
        np.arange(len(steps)), env_steps=steps, time=steps, greedy=[step % 2 for step in steps]
    )
    answer = curves(view, SeriesQuery(("reward", "reward_mean"), x, points, 5, kind))
    assert np.all(np.diff(answer[x]) > 0)
    assert {len(column) for column in answer.values()} == {len(answer[x])}
    assert len(answer[x]) <= points


def test_episodes_at_the_same_place_are_averaged():
    view = table([1.0, 3.0, 10.0], env_steps=[5, 5, 8])
    answer = curves(view, SeriesQuery(("reward",)))
    assert answer["env_steps"].tolist() == [5, 8]
    assert answer["reward"].tolist() == [2, 10]
    assert answer["number"].tolist() == [2, 3]


def test_a_resumed_run_is_shown_in_order():
    view = table([0.0, 1.0, 2.0], env_steps=[10, 30, 20])
    assert curves(view, SeriesQuery(("reward",)))["reward"].tolist() == [0, 2, 1]


def test_rows_after_a_number_go_on_with_the_same_means():
    rng = np.random.default_rng(0)
    taken_over = np.where(rng.random(200) < 0.2, 5.0, np.nan)
    view = table(rng.normal(size=200), greedy=rng.random(200) < 0.3, intervened=taken_over)
    for kind in ("all", "exploring", "greedy", "intervened"):
        query = {"metrics": ("reward_mean", "reward_low"), "window": 7, "kind": kind}
        whole = curves(view, SeriesQuery(**query))
        rest = curves(view, SeriesQuery(**query, after=150))
        late = whole["number"] > 150
        assert late.any()
        for name, column in rest.items():
            assert column == pytest.approx(whole[name][late])


def test_episodes_that_a_person_took_over_are_a_kind_of_their_own():
    nobody = np.nan
    view = table(range(6), greedy=[0, 1, 0, 1, 0, 1], intervened=[nobody, nobody, 3, 4, 0, nobody])
    found = {
        kind: curves(view, SeriesQuery(("reward",), kind=kind))["reward"].tolist()
        for kind in ("all", "exploring", "greedy", "intervened")
    }
    assert found == {
        "all": [0, 1, 2, 3, 4, 5],
        "exploring": [0, 4],
        "greedy": [1, 5],
        "intervened": [2, 3],
    }


def test_a_span_of_time():
    view = table(range(10))
    answer = curves(view, SeriesQuery(("reward",), x="time", begin=103.0, end=105.0))
    assert answer["reward"].tolist() == [3, 4, 5]


def test_times_are_told_apart_by_milliseconds():
    view = table([1.0, 3.0, 9.0], time=[5.0001, 5.0002, 5.002])
    answer = curves(view, SeriesQuery(("reward",), x="time"))
    assert answer["time"].tolist() == [5.0, 5.002]
    assert answer["reward"].tolist() == [2, 9]


def test_a_number_that_some_episodes_lack():
    rows = Table()
    for i in range(4):
        row = {"env_steps": float(i), "time": float(i)}
        rows.append(row | {"win": 1.0} if i == 2 else row)
    answer = curves(rows.view(), SeriesQuery(("win", "win_mean")))
    assert np.isnan(answer["win"]).tolist() == [True, True, False, True]
    assert answer["win_mean"][3] == 1.0


def test_nothing_yet():
    answer = curves(Table().view(), SeriesQuery(("env_steps",)))
    assert len(answer["env_steps"]) == 0


def test_which_metrics_there_are():
    assert has(["reward"], "reward_mean")
    assert has(["reward_mean"], "reward_mean")
    assert has(["a_low"], "a_low_high")
    assert not has(["reward"], "reward_median")
    assert not has(["reward"], "win")


def test_tables_are_joined_over_one_axis():
    one = {"env_steps": np.array([1.0, 3.0]), "a": np.array([10.0, 30.0])}
    two = {"env_steps": np.array([2.0, 3.0]), "b": np.array([2.0, 3.0])}
    answer = joined([one, two], "env_steps")
    assert answer["env_steps"].tolist() == [1, 2, 3]
    assert np.nan_to_num(answer["a"], nan=-1).tolist() == [10, -1, 30]
    assert np.nan_to_num(answer["b"], nan=-1).tolist() == [-1, 2, 3]


def test_bands_of_seeds():
    x = np.arange(11.0)
    answer = bands([(x, x), (x, x + 2), (x[:6], x[:6] + 4), (x, x + 100)], 11)
    assert answer["x"].tolist() == x.tolist()
    assert answer["n"].tolist() == [4] * 6 + [3] * 5
    assert answer["median"][0] == 3.0
    assert answer["iqm"][0] == pytest.approx(3.0)  # the mean of 2 and 4: the extremes are out
    assert answer["low"][10] == pytest.approx(11.0)
    assert bands([(x, x), (x, x + 2)], 11)["iqm"] == pytest.approx(x + 1)


def test_bands_of_nothing():
    assert len(bands([(np.zeros(0), np.zeros(0))], 10)["x"]) == 0


def test_a_long_curve_is_computed_quickly(record_property):
    from time import perf_counter

    n = 100_000
    view = table(np.random.default_rng(0).normal(size=n))
    query = SeriesQuery(("reward", "reward_mean", "reward_low", "reward_high"), points=2000)
    began = perf_counter()
    answer = curves(view, query)
    took = perf_counter() - began
    record_property("milliseconds", 1000 * took)
    assert len(answer["reward"]) == 2000
    assert took < 1.0


def test_mean_names_are_the_ones_documented():
    assert (series.MEAN, series.LOW, series.HIGH) == ("_mean", "_low", "_high")
