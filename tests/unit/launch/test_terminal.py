"""The live view, the plain lines and the facts of a run, as text."""

import io
from contextlib import closing

import pytest
from rich.console import Console

from soulsai.launch.scene import Scene, facts, problems, progress_line
from soulsai.launch.screen import CLIENTS, LiveView, remaining, screen, sparkline
from soulsai.launch.terminal import PlainView, view_for
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


def shown(scene, width=100, rewards=()):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(screen(scene, width, rewards))
    return console.file.getvalue()


def test_the_screen_shows_the_status():
    scene = Scene(61.0, "LunarLander-v3 · dqn", status(seconds=5.0), page="http://127.0.0.1:8080")
    text = shown(scene)
    for part in (
        *("LunarLander-v3 · dqn", "learning", "0:01:01", "a_run"),
        *("50,000 of 150,000", "33%", "0:01:40 left"),
        *("reward 12.3 ▲1.5", "env steps/s 1,000", "updates/s 990", "replay ratio 0.98"),
        *("lag 0.6", "rejected 3", "lost 64", "checkpoint 000004, 0:00:12 ago"),
        *("client-1", "active", "client-2", "lost 0:01:15", "page http://127.0.0.1:8080"),
    ):
        assert part in text, part


def test_a_client_that_waits_for_weights_is_healthy():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    console.print(screen(Scene(1.0, "x", status(clients=(client("one", state="waiting"),)))))
    assert "\x1b[32min step" in console.file.getvalue(), "green"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_nothing_wraps_and_all_is_seen(width, height):
    sick = {
        "restarts": 3,
        "faults": {"hang": 2},
        "trouble": "step: silent " + "very " * 40 + "long",
    }
    many = tuple(
        client(f"client-{'long-' * 9}{n}", state="lost", seen=9e5, **sick) for n in range(3)
    )
    changes = {
        "run": "2026-11-30_04-45-36_some-long-environment-v1_dqn_ad5f",
        "env_steps": 123_456_789, "max_env_steps": 1_000_000_000,
        "reward_mean": -1234.5, "reward_trend": -34.9, "clients": many,
    }  # fmt: skip
    scene = Scene(
        36000.0, "some-long-environment-v1 · dqn", status(**changes), page="http://127.0.0.1:8080",
        restarting=("client-1",), notices=("client-1 was killed by SIGKILL, restarts " * 5,) * 4,
    )  # fmt: skip
    lines = shown(scene, width, rewards=[float(n) for n in range(500)]).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    saved = "checkpoint 000004, 0:00:12 ago"
    for part in ("left", "reward -1234.5 ▼34.9", "dropped", saved, "▁", "█"):
        assert part in text, part
    assert text.splitlines()[-1].strip() == "Ctrl-C saves and stops."


def test_a_chart_is_as_wide_as_its_values_or_its_space():
    assert sparkline([0.0, 1.0], 10) == "▁█"
    assert sparkline([float(n) for n in range(80)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0, 3.0, 3.0], 2) == "▁▁"


def test_the_screen_shows_faults_of_environments():
    sick = client("one", restarts=3, faults={"hang": 2, "crash": 1}, trouble="step: silent for 5 s")
    text = shown(Scene(1.0, "x", status(clients=(sick, client("two")))))
    assert "one: step: silent for 5 s (3 restarts; 1 crash, 2 hang)" in text
    assert "two:" not in text


def test_the_screen_begins_before_there_is_a_status():
    text = shown(Scene(0.1, "LunarLander-v3 · dqn"))
    assert "starting" in text
    assert "LunarLander-v3" in text


def test_the_screen_shows_restarts_and_the_newest_notices_only():
    notices = tuple(f"notice {number}" for number in range(9))
    text = shown(Scene(1.0, "x", status(), restarting=("client-1",), notices=notices))
    assert "client-1 restarts" in text
    assert "notice 8" in text
    assert "notice 0" not in text


def test_the_table_of_clients_is_bounded():
    many = tuple(client(f"client-{number}") for number in range(CLIENTS + 5))
    text = shown(Scene(1.0, "x", status(clients=many)))
    assert "and 5 more" in text
    assert len(text.splitlines()) < 40


def test_a_screen_without_clients_reward_or_end():
    text = shown(Scene(1.0, "x", status(clients=(), reward_mean=None, max_env_steps=0)))
    assert "no client yet" in text
    assert "reward none yet" in text
    assert "50,000 env steps" in text


def test_where_no_episode_ends_the_reward_of_a_step_is_shown():
    endless = status(reward_mean=None, reward_per_step=0.0123)
    assert "reward 0.0123 per env step," in progress_line(Scene(1.0, "x", endless))
    assert "mean reward 0.0123 per env step" in list(facts(endless))


def test_time_left_is_unknown_while_nothing_moves():
    assert remaining(status()) == 100.0
    assert remaining(status(env_steps_per_second=0.0)) is None
    assert remaining(status(max_env_steps=0)) is None
    assert remaining(status(env_steps=150_050)) == 0.0
    assert remaining(status(phase="ended")) is None


def test_the_last_screen_of_a_run_says_that_it_is_over():
    over = status(phase="ended", env_steps=151_000, clients=(client("one", state="waiting"),))
    text = shown(Scene(61.0, "x", over, hint=""))
    assert "100%" in text
    assert "dismissed" in text
    assert "in step" not in text
    assert " left" not in text
    assert any("client one: dismissed" in line for line in facts(over))


def test_a_clock_of_training_says_so():
    scene = Scene(61.0, "x", status(), timed="trained ")
    assert "learning  trained 0:01:01" in shown(scene)
    assert progress_line(scene).startswith("trained 0:01:01 learning: ")


def test_a_line_says_the_same_without_a_terminal():
    text = progress_line(Scene(61.0, "x", status()))
    assert text.startswith("0:01:01 learning: 50000/150000 env steps (1000/s), 48000 updates")
    assert "reward 12.3" in text
    assert "1 client," in text
    assert progress_line(Scene(0.0, "x · dqn")) == "0:00:00 x · dqn: starting"


def test_facts_are_one_a_line():
    lines = list(facts(status(), "http://127.0.0.1:8080"))
    assert "env steps 50,000 of 150,000, 1,000/s" in lines
    assert "phase learning, trained for 0:00:00" in lines
    assert "page http://127.0.0.1:8080" in lines
    assert sum(line.startswith("client client-") for line in lines) == 2


def test_a_run_without_clients_says_so_after_a_minute():
    assert problems(status(clients=(), seconds=59.0)) == []
    assert problems(status(clients=(), seconds=61.0))[0].startswith(
        "no client has played for 0:01:01"
    )
    gone = (client("one", state="lost", seen=90.0), client("two", state="lost", seen=75.0))
    assert problems(status(clients=gone, seconds=500.0))[0].startswith(
        "no client has played for 0:01:15"
    )
    assert problems(status(seconds=500.0)) == []
    assert problems(status(clients=gone, seconds=500.0, phase="ended")) == []


def test_problems_name_clients_that_are_kept_out_and_weights_that_went_back():
    out = client("one", state="quarantine", held="rewards beyond limits")
    lines = problems(status(clients=(out,), rollbacks=1, withheld=2))
    assert lines == [
        "went back to the last good version 1 time",
        "2 versions not published: the weights were bad",
        "one is kept out: rewards beyond limits",
    ]


def test_lines_come_every_ten_seconds_and_notices_at_once():
    stream = io.StringIO()
    with closing(view_for(stream)) as view:
        assert isinstance(view, PlainView)
        for tenths in range(250):
            notices = ("client-1 died",) if tenths >= 55 else ()
            view.show(
                Scene(tenths / 10, "x", page="http://a" if tenths > 9 else "", notices=notices)
            )
    assert stream.getvalue().splitlines() == [
        "0:00:00 x: starting",
        "page http://a",
        "client-1 died",
        "0:00:10 x: starting",
        "0:00:20 x: starting",
    ]


def test_plain_lines_tell_each_problem_once():
    stream = io.StringIO()
    sick = client("one", restarts=1, faults={"hang": 1}, trouble="step: silent")
    with closing(view_for(stream)) as view:
        for second in range(60):
            shown = (
                status(clients=(sick,)) if 15 <= second < 45 else status(clients=(client("one"),))
            )
            view.show(Scene(float(second), "x", shown))
    told = [line for line in stream.getvalue().splitlines() if " env steps " not in line]
    assert told == ["one: step: silent (1 restart; 1 hang)", "all is well again"]


def test_the_live_view_is_redrawn_in_place():
    stream = io.StringIO()
    with closing(LiveView(Console(file=stream, force_terminal=True, width=100))) as view:
        view.show(Scene(0.0, "x"))
        view.show(Scene(1.0, "x", status()))
    assert "\x1b[1A" in stream.getvalue()
    assert "\x1b[?25h" in stream.getvalue(), "the cursor is back"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_rich_a_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setattr("soulsai.launch.terminal.find_spec", lambda name: None)
    stream = Terminal()
    with closing(view_for(stream)) as view:
        view.show(Scene(0.0, "x", status()))
    assert isinstance(view, PlainView)
    assert " env steps " in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
