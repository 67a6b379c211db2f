"""Stopping when asked, and dying with one's parent, with real processes."""

import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from soulsai.process import (
    PARENT,
    PULSE,
    RELEASE_SECONDS,
    MemoryRelease,
    StopSignal,
    let_threads_sleep,
    parent,
    unique_name,
)

ROOT = Path(__file__).parents[2]
CHILD = """
import sys, time
from soulsai.process import StopSignal, parent
with StopSignal(parent(), at_once={at_once}) as stop:
    print("ready", flush=True)
    while {until}:
        time.sleep(0.01)
print("clean", flush=True)
sys.exit(stop.exit_code)
"""


# Whatever runs the tests may ignore signals, and children inherit that.
HEEDED = "import signal; [signal.signal(n, signal.SIG_DFL) for n in (1, 2, 15)]"


def start(until="not stop()", at_once=False, **environ):
    return subprocess.Popen(
        [sys.executable, "-c", HEEDED + CHILD.format(until=until, at_once=at_once)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)]
)
def test_first_signal_asks(number, code):
    process = start()
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    said, _ = process.communicate(timeout=10)
    assert (said, process.returncode) == ("clean\n", code)


def test_second_signal_kills():
    process = start(until="True")
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    assert process.wait(1) == -signal.SIGTERM
    process.stdout.close()


def test_a_hung_up_terminal_is_ignored_where_that_was_asked_for():
    process = subprocess.Popen(
        ["nohup", sys.executable, "-c", CHILD.format(until="not stop()", at_once=False)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == "clean\n"


@pytest.mark.parametrize(("at_once", "said"), [(True, ""), (False, "clean\n")])
def test_nobody_outlives_a_parent_that_is_killed(at_once, said):
    middle = subprocess.Popen(
        [sys.executable, "-c", MIDDLE, CHILD.format(until="not stop()", at_once=at_once)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    child = psutil.Process(int(middle.stdout.readline()))
    assert middle.stdout.readline() == "ready\n"
    middle.kill()
    middle.wait()
    assert middle.stdout.read() == said
    middle.stdout.close()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


MIDDLE = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]],
    env={**os.environ, "SOULSAI_PARENT": str(os.getpid())}, start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_parent_that_died_before_we_looked_is_missed_at_once():
    process = start(**{PARENT: str(2**22 + 1)})
    assert process.communicate(timeout=10)[0] == "ready\nclean\n"


def test_the_parent_is_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv(PARENT, "123")
    assert parent() == 123
    assert PARENT not in os.environ
    assert parent() is None


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop()
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_names_are_valid_and_differ():
    names = {unique_name() for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name) for name in names)


def test_asking_shows_that_we_go_round_once_a_second(tmp_path, monkeypatch):
    pulse, now = tmp_path / "pulse", [10.0]
    monkeypatch.setenv(PULSE, str(pulse))
    stop = StopSignal(clock=lambda: now[0])
    assert not pulse.exists(), "nobody has asked yet"
    for seconds, touched in ((0.0, True), (0.5, False), (0.6, True)):
        now[0] += seconds
        pulse.unlink(missing_ok=True)
        assert stop() is False
        assert pulse.exists() == touched


def test_a_pulse_that_cannot_be_written_is_no_reason_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv(PULSE, str(tmp_path / "missing" / "pulse"))
    assert StopSignal()() is False


def test_free_memory_is_released_once_a_minute():
    released = []
    memory = MemoryRelease(lambda: released.append(True))
    for now in (5.0, 6.0, 5.0 + RELEASE_SECONDS / 2, 5.0 + RELEASE_SECONDS, 6.0 + RELEASE_SECONDS):
        memory.look(now)
    assert len(released) == 2


HOLES = """
import psutil
from soulsai.process import release_free_memory
pieces = [bytes(2000) for _ in range(100_000)]
pieces[:-1] = [None] * 99_999  # the last one is above the hole
before = psutil.Process().memory_info().rss
release_free_memory()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such call")
def test_holes_in_the_heap_go_back_to_the_system():
    done = subprocess.run(
        [sys.executable, "-c", HOLES], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert int(done.stdout) > 100e6


def test_waiting_threads_sleep_at_once_unless_the_user_wants_otherwise():
    theirs, none = {"GOMP_SPINCOUNT": "7"}, {}
    let_threads_sleep(theirs)
    let_threads_sleep(none)
    assert theirs == {"GOMP_SPINCOUNT": "7"}
    assert none == {"GOMP_SPINCOUNT": "500"}


# torch's library reads the variable when it is loaded, and never again.
LEARNER = """
import os, sys
from soulsai import process

def told(environ):
    assert environ is os.environ
    print("late" if "torch" in sys.modules else "in time")
    os._exit(0 if sys.stdout.flush() is None else 1)

process.let_threads_sleep = told
from soulsai.__main__ import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["training-node", "--redis", "redis://127.0.0.1:1"],
        ["train", "--env", "CartPole-v1", "--offline", "--data", "missing"],
    ],
)
def test_a_learner_says_so_before_torch_is_loaded(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LEARNER, *words], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.stdout == "in time\n", done.stderr
