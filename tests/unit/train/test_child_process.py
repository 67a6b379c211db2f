"""What follows when a supervised process ends."""

import os
import signal
import sys
import time

import psutil
import pytest

from soulsai.train.child_process import FIRST_DELAY, FORGIVEN_SECONDS, Child, describe, judge


def test_success_is_the_end_of_it():
    assert judge(0, [5.0], worked=True).then == "done"


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_mistake_that_a_restart_cannot_mend_ends_everything(code):
    verdict = judge(code, [5.0], worked=True)
    assert (verdict.then, verdict.code) == ("give up", code)


def test_what_fails_before_it_has_worked_fails_again():
    assert judge(1, [5.0], worked=False).then == "give up"
    assert judge(1, [5.0], worked=True).then == "restart"
    assert judge(-9, [5.0], worked=False).then == "restart", "killed is not failed"


def test_pauses_double_and_what_is_long_ago_does_not_count():
    crashes = [index * 16.0 for index in range(12)]  # no three of them within half a minute
    verdicts = [judge(1, crashes[: n + 1], worked=True) for n in range(12)]
    assert {verdict.then for verdict in verdicts} == {"restart"}
    times = [verdict.delay / FIRST_DELAY for verdict in verdicts]
    assert times == [1, 2, 4, *[8] * 9]


def test_three_crashes_within_half_a_minute_are_a_loop():
    assert judge(-9, [0.0, 14.0], worked=True).then == "restart"
    assert judge(-9, [0.0, 14.0, 29.0], worked=True).then == "give up"
    assert judge(-9, [0.0, 14.0, 31.0], worked=True).then == "restart"


def test_exit_codes_in_words():
    assert describe(1) == "ended with 1"
    assert describe(-9) == "was killed by SIGKILL"
    assert describe(-99) == "was killed by signal 99"


class Script(Child):
    """A child that runs Python code instead of a command of ours."""

    def __init__(self, code, log):
        super().__init__("script", lambda life: [str(life)], log, dict(os.environ))
        self.command = [sys.executable, "-c", code]

    def command_line(self):
        return [*self.command, *self.words(self.lives)]


def until_it_ends(child, now):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        verdict = child.poll(now)
        if verdict is not None:
            return verdict
        time.sleep(0.01)
    raise TimeoutError


def test_a_child_says_its_life_and_its_last_words(tmp_path):
    child = Script("import sys; print('life', sys.argv[1]); sys.exit(5)", tmp_path / "log")
    child.worked = True
    child.start()
    assert until_it_ends(child, 1.0).then == "restart"
    assert child.state == "restarting"
    assert child.due == 1.0 + FIRST_DELAY
    child.start()
    until_it_ends(child, 3.0)
    assert child.tail() == ["life 0", "life 1"]


def test_earlier_crashes_are_forgiven(tmp_path):
    child = Script("import sys; sys.exit(5)", tmp_path / "log")
    child.worked = True
    for end in (1.0, 3.0, 3.0 + FORGIVEN_SECONDS):
        child.start()
        verdict = until_it_ends(child, end)
    assert (verdict.then, verdict.delay) == ("restart", FIRST_DELAY)


def test_a_child_is_not_in_our_session_and_takes_its_own_children_with_it(tmp_path):
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    child = Script(code, tmp_path / "log")
    child.start()
    deadline = time.monotonic() + 10
    while not child.tail() and time.monotonic() < deadline:
        time.sleep(0.01)
    grandchild = psutil.Process(int(child.tail()[0]))
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    child.kill()
    gone, _ = psutil.wait_procs([grandchild], timeout=5)
    assert gone or grandchild.status() == psutil.STATUS_ZOMBIE
    assert child.pid is None


def test_a_crashed_child_takes_its_own_children_with_it(tmp_path):
    code = (
        "import subprocess, os; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    child = Script(code, tmp_path / "log")
    child.start()
    assert until_it_ends(child, 1.0).code == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while psutil.pid_exists(int(child.tail()[0])) and time.monotonic() < deadline:
        if psutil.Process(int(child.tail()[0])).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.01)
    else:
        assert not psutil.pid_exists(int(child.tail()[0]))


def test_only_the_end_of_a_log_is_read(tmp_path):
    child = Script("", tmp_path / "log")
    assert child.tail() == []
    (tmp_path / "log").write_text("".join(f"{n}\n" for n in range(100_000)))
    assert child.tail(2) == ["99998", "99999"]
