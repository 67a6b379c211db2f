"""When an environment is broken, and how long to wait before trying again; without any waiting."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.client.isolation.watchdog import HEALTHY_STEPS, Fault, Watchdog
from soulsai.client.player_link import LONGEST_TEXT, printable
from soulsai.config.schema import WatchdogSettings as Limits

CRASH = Fault("crash", "step: its process was killed by SIGSEGV")


class Now:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def watchdog(now=None, **limits):
    return Watchdog(Limits(**limits), rng=random.Random(0), clock=now or Now())


def test_by_default_only_hangs_and_crashes_are_faults():
    now = Now()
    dog = watchdog(now)
    dog.measured(10**12)
    for _ in range(100):
        dog.stepped(60.0)
        dog.began()
    now.seconds = 1e9
    assert dog.due(between=True) is None


def test_a_game_that_becomes_slow_is_found_within_the_window():
    dog = watchdog(steps_per_minute=300, slow_seconds=10)
    for _ in range(1000):
        dog.stepped(0.1)
        assert dog.due(between=False) is None
    spent = 0.0
    while dog.due(between=False) is None:
        dog.stepped(0.5)
        spent += 0.5
    assert 3.0 < spent < 10.0
    assert dog.due(between=False).kind == "slow"
    dog.launched()
    assert dog.due(between=False) is None


def test_one_long_step_is_no_lag():
    dog = watchdog(steps_per_minute=300, slow_seconds=10)
    for _ in range(200):
        dog.stepped(0.1)
    dog.stepped(4.0)
    assert dog.due(between=False) is None


@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=60), st.integers(1, 600))
def test_slowness_is_what_a_count_over_the_last_window_says(seconds, floor):
    dog = watchdog(steps_per_minute=floor, slow_seconds=5)
    for each in seconds:
        dog.stepped(each)
    # The shortest run of newest steps that fills the window
    window, total = [], 0.0
    for each in reversed(seconds):
        if total >= 5:
            break
        window.append(each)
        total += each
    rate = 60 * len(window) / total
    if abs(total - 5) < 1e-6 or abs(rate - floor) < 1e-6:
        return  # on the edge, where rounding decides
    assert (dog.due(between=False) is not None) == (total >= 5 and rate < floor)


def test_planned_restarts_are_for_between_episodes():
    now = Now()
    dog = watchdog(now, restart_hours=0.25, restart_episodes=3)
    dog.launched()
    now.seconds = 899
    assert dog.due(between=True) is None
    now.seconds = 901
    assert dog.due(between=False) is None
    assert dog.due(between=True) == Fault("planned", "after 0.3 hours", sound=True)
    dog.launched()
    for _ in range(3):
        assert dog.due(between=True) is None
        dog.began()
    assert dog.due(between=True).text == "after 3 episodes"


def test_memory_is_judged_by_its_limit():
    dog = watchdog(memory_mb=500)
    dog.measured(500_000_000)
    assert dog.due(between=False) is None
    dog.measured(501_000_000)
    assert dog.due(between=False).kind == "memory"


def test_waits_grow_with_jitter_and_shrink_again_when_it_works():
    def waits(dog, count):
        return [dog.after(CRASH)[0] for _ in range(count)]

    many = [waits(watchdog(most_faults=20), 8) for _ in range(50)]
    dog = watchdog(most_faults=20)
    first = waits(dog, 8)
    assert all(wait <= 0.5 * 2**i for i, wait in enumerate(first))
    assert max(first) > 2
    assert many[0] == first  # the draw is all there is to it
    for _ in range(HEALTHY_STEPS):
        dog.stepped(0.1)
    assert dog.after(CRASH)[0] <= 0.5


def test_faults_in_a_row_lead_to_a_long_rest_that_says_why():
    dog = watchdog(most_faults=3, rest_seconds=300)
    assert dog.after(CRASH)[1] == "crash: step: its process was killed by SIGSEGV"
    dog.after(CRASH)
    for count in (3, 4):
        seconds, text = dog.after(CRASH)
        assert 240 <= seconds <= 360
        assert text.startswith(f"rests {seconds:.0f} s after {count} faults in a row; crash: step")


def test_a_planned_restart_waits_for_nothing_and_is_no_fault_in_a_row():
    dog = watchdog(most_faults=1)
    assert dog.after(Fault("planned", "after 3 episodes")) == (
        0.0,
        "planned restart after 3 episodes",
    )


def test_the_third_reset_that_fails_is_a_crash():
    dog = watchdog()
    kinds = [dog.reset_failed("boss").kind for _ in range(3)]
    assert kinds == ["reset", "reset", "crash"]
    dog.began()
    assert dog.reset_failed("boss").kind == "reset"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ValueError: no at C:\\Users\\me\\game.py:3", "ValueError: no at game.py:3"),
        ("it: boom at /home/me/env.py:12", "it: boom at env.py:12"),
        ("cannot open '/home/me/game.cfg'", "cannot open 'game.cfg'"),
        ("two\nlines\x1b[2J", "two lines[2J"),
        ("20 steps/s are few", "20 steps/s are few"),
    ],
)
def test_a_text_for_the_server_is_a_line_without_our_folders(text, said):
    assert printable(text) == said


@given(st.text(max_size=400))
def test_any_text_becomes_a_line(text):
    line = printable(text)
    assert len(line) <= LONGEST_TEXT
    assert not line or line.isprintable()
