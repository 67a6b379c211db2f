"""What settings ask of each episode: values, comparisons, timers, and what cannot be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.episode_metrics import MOST, Meter, for_run, info_keys, measure, measures
from soulsai.errors import ConfigError
from soulsai.types import Episode

NOTHING: dict[str, float] = {}


def episode(reward: float = 0.0, time: float = 1000.0, info: dict[str, float] = NOTHING) -> Episode:
    return Episode(
        generation=1, version=3, episode=0, reward=reward, steps=30, seconds=1.5,
        terminated=True, greedy=False, epsilon=0.1, info=info, env_steps=90, time=time,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("reward", 250.0),
        ("reward > 200", 1.0),
        ("reward>250", 0.0),
        ("reward >= 250", 1.0),
        (" steps < 3e1 ", 0.0),
        ("steps <= 30", 1.0),
        ("terminated", 1.0),
        ("greedy == 0", 1.0),
        ("version != 3", 0.0),
        ("env_steps / 3", 30.0),
        ("score", 7.5),
        ("info.score > -1", 1.0),
        ("info.reward", 4.0),
        ("timer", 0.0),
    ],
)
def test_what_a_text_means(text: str, number: float) -> None:
    meter = Meter([measure("it", text)])
    assert meter(episode(250.0, info={"score": 7.5, "reward": 4.0})) == {"it": number}


@given(reward=st.floats(-1e6, 1e6), bound=st.floats(-1e6, 1e6))
def test_a_comparison_is_a_comparison(reward: float, bound: float) -> None:
    meter = Meter([measure("more", f"reward > {bound!r}"), measure("less", f"reward <= {bound!r}")])
    row = meter(episode(reward))
    assert row == {"more": float(reward > bound), "less": float(reward <= bound)}


def test_a_timer_counts_from_the_first_episode() -> None:
    meter = Meter(measures({"seconds_in": "timer", "hours": "timer / 3600"}))
    assert meter(episode(time=1e9)) == {"seconds_in": 0.0, "hours": 0.0}
    assert meter(episode(time=1e9 + 5400)) == {"seconds_in": 5400.0, "hours": 1.5}


def test_what_an_info_does_not_say_is_missing() -> None:
    meter = Meter(measures({"fell": "info.fell", "deep": "depth > 3", "long": "steps > 3"}))
    assert meter(episode(info={"depth": 5.0})) == {"deep": 1.0, "long": 1.0}


def test_clients_send_what_is_measured() -> None:
    some = measures({"a": "fell", "b": "info.fell > 1", "c": "reward", "d": "info.timer"})
    assert info_keys(some) == ("fell", "timer")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("win", ""), ("win", "reward >"), ("win", "> 3"), ("win", "reward > x"),
        ("win", "reward > 1.2.3"), ("win", "steps / 0"), ("win", "reward > 1 > 2"),
        ("win", "a" * 80), ("Win", "reward"), ("a-b", "reward"), ("", "reward"),
        ("steps", "reward"), ("time", "reward"), ("win_mean", "reward"), ("timer", "reward"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.metrics"):
        measure(name, text)


def test_there_are_not_too_many() -> None:
    with pytest.raises(ConfigError, match="at most"):
        measures({f"m{n}": "reward" for n in range(MOST + 1)})


def test_a_win_is_what_gymnasium_says_unless_told_otherwise() -> None:
    assert [one.text for one in for_run({}, "LunarLander-v3")] == ["reward >= 200"]
    assert [one.text for one in for_run({"win": "reward > 250"}, "LunarLander-v3")] == [
        "reward > 250"
    ]
    assert for_run({}, "somebody:Game-v0") == ()
