"""What a watcher is shown, as text."""

import io

from rich.console import Console

from soulsai.train.terminal import (
    CLIENTS,
    LiveView,
    PlainView,
    Scene,
    line,
    page,
    remaining,
    view_for,
)
from soulsai.types import ClientStatus, Status


def status(**changes):
    values = {
        "run": "a_run",
        "generation": 1,
        "phase": "learning",
        "algorithm": "dqn",
        "environment": "LunarLander-v3",
        "env_steps": 50_000,
        "max_env_steps": 150_000,
        "updates": 48_000,
        "episodes": 123,
        "env_steps_per_second": 1000.0,
        "updates_per_second": 990.0,
        "replay_ratio": 0.98,
        "reward_mean": 12.34,
        "reward_trend": 1.5,
        "lag": 0.6,
        "rejected": {"finite": 2, "run": 1},
        "lost": 64,
        "checkpoint": "000004",
        "checkpoint_age": 12.0,
        "clients": (client("client-1"), client("client-2", state="lost", seen=75.0)),
    }
    return Status(**(values | changes))


def client(name, state="active", seen=0.1, **more):
    return ClientStatus(name, state, 500.0, 25_000, 3, 64, 0, 7, 1, seen, **more)


def shown(scene, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(page(scene))
    return console.file.getvalue()


def test_page_shows_what_the_status_says():
    text = shown(Scene(61.0, "LunarLander-v3 · dqn", status()))
    for part in (
        *("LunarLander-v3 · dqn", "learning", "0:01:01", "a_run"),
        *("50,000 of 150,000", "33%", "0:01:40 left"),
        *("reward 12.3 +1.5", "env steps/s 1,000", "updates/s 990", "replay ratio 0.98"),
        *("lag 0.6 versions", "rejected 3", "lost 64", "saved 000004, 0:00:12 ago"),
        *("client-1", "active", "client-2", "lost (0:01:15 ago)"),
    ):
        assert part in text, part


def test_page_shows_what_environments_suffer_from():
    sick = client("one", restarts=3, faults={"hang": 2, "crash": 1}, trouble="step: silent for 5 s")
    text = shown(Scene(1.0, "x", status(clients=(sick, client("two")))))
    assert "one: step: silent for 5 s (3 restarts; 1 crash, 2 hang)" in text
    assert "two:" not in text


def test_page_begins_before_there_is_a_status():
    text = shown(Scene(0.1, "LunarLander-v3 · dqn"))
    assert "starting" in text
    assert "LunarLander-v3" in text


def test_page_shows_restarts_and_the_newest_notices_only():
    notices = tuple(f"notice {number}" for number in range(9))
    text = shown(Scene(1.0, "x", status(), restarting=("client-1",), notices=notices))
    assert "client-1 restarts" in text
    assert "notice 8" in text
    assert "notice 0" not in text


def test_page_bounds_the_table_of_clients():
    many = tuple(client(f"client-{number}") for number in range(CLIENTS + 5))
    text = shown(Scene(1.0, "x", status(clients=many)))
    assert "and 5 more" in text
    assert len(text.splitlines()) < 40


def test_page_without_clients_reward_or_end():
    text = shown(Scene(1.0, "x", status(clients=(), reward_mean=None, max_env_steps=0)))
    assert "no client yet" in text
    assert "reward none yet" in text
    assert "50,000 env steps" in text


def test_time_left_is_unknown_while_nothing_moves():
    assert remaining(status()) == 100.0
    assert remaining(status(env_steps_per_second=0.0)) is None
    assert remaining(status(max_env_steps=0)) is None
    assert remaining(status(env_steps=150_050)) == 0.0


def test_a_line_says_the_same_without_a_terminal():
    text = line(Scene(61.0, "x", status()))
    assert text.startswith("0:01:01 learning: 50000/150000 env steps (1000/s), 48000 updates")
    assert "reward 12.3" in text
    assert "1 clients" in text
    assert line(Scene(0.0, "x · dqn")) == "0:00:00 x · dqn: starting"


def test_lines_come_every_ten_seconds_and_notices_at_once():
    stream = io.StringIO()
    with view_for(stream) as view:
        assert isinstance(view, PlainView)
        for tenths in range(250):
            notices = ("client-1 died",) if tenths >= 55 else ()
            view.show(Scene(tenths / 10, "x", notices=notices))
    assert stream.getvalue().splitlines() == [
        "0:00:00 x: starting",
        "client-1 died",
        "0:00:10 x: starting",
        "0:00:20 x: starting",
    ]


def test_a_page_is_redrawn_in_place():
    stream = io.StringIO()
    with LiveView(Console(file=stream, force_terminal=True, width=100)) as view:
        view.show(Scene(0.0, "x"))
        view.show(Scene(1.0, "x", status()))
    assert "\x1b[1A" in stream.getvalue()
    assert "\x1b[?25h" in stream.getvalue(), "the cursor is back"
