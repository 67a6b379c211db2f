"""The restarts of child processes, and the command line, seed and log of each."""

import json
import os
import signal
import stat
import sys
import time

import psutil
import pytest

from soulsai.config import Config
from soulsai.config.schema import ClientSettings, EvaluateSettings, RunSettings
from soulsai.launch.child_process import (
    EARLY_DELAY,
    FIRST_DELAY,
    FORGIVEN_SECONDS,
    Child,
    RunProcesses,
    client_seed,
    decide,
    describe_exit,
    evaluates,
)


def test_success_is_the_end_of_it():
    assert decide(0, [5.0], worked=True).then == "done"


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_mistake_that_a_restart_cannot_mend_ends_everything(code):
    verdict = decide(code, [5.0], worked=True)
    assert (verdict.then, verdict.code) == ("give up", code)


def test_what_fails_before_it_has_worked_fails_again():
    assert decide(1, [5.0], worked=False).then == "give up"
    assert decide(1, [5.0], worked=True).then == "restart"
    assert decide(-9, [5.0], worked=False).then == "restart", "killed is not failed"


def test_a_client_that_ends_well_before_the_run_is_started_again():
    decision = decide(0, [5.0], worked=True, may_end=False)
    assert (decision.then, decision.delay) == ("restart", EARLY_DELAY)
    again = decide(0, [5.0, 10.0, 15.0], worked=True, may_end=False)
    assert (again.then, again.reason) == (
        "give up", "ended by itself before the run, 3 times within 30 s",
    )  # fmt: skip


def test_pauses_double_and_what_is_long_ago_does_not_count():
    crashes = [index * 16.0 for index in range(12)]  # no three of them within half a minute
    verdicts = [decide(1, crashes[: n + 1], worked=True) for n in range(12)]
    assert {verdict.then for verdict in verdicts} == {"restart"}
    times = [verdict.delay / FIRST_DELAY for verdict in verdicts]
    assert times == [1, 2, 4, *[8] * 9]


def test_three_crashes_within_half_a_minute_are_a_loop():
    assert decide(-9, [0.0, 14.0], worked=True).then == "restart"
    assert decide(-9, [0.0, 14.0, 29.0], worked=True).then == "give up"
    assert decide(-9, [0.0, 14.0, 31.0], worked=True).then == "restart"


def test_exit_codes_in_words():
    assert describe_exit(1) == "ended with exit code 1"
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(-99) == "was killed by signal 99"


class Script(Child):
    """A child that runs Python code instead of a command of ours."""

    def __init__(self, code, log):
        super().__init__("script", lambda life: [str(life)], log, dict(os.environ))
        self.command = [sys.executable, "-c", code]

    def command_line(self):
        return [*self.command, *self.words(self.starts)]


def until_it_ends(child, now):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        verdict = child.poll(now)
        if verdict is not None:
            return verdict
        time.sleep(0.01)
    raise TimeoutError


def test_a_child_says_its_life_and_its_last_words(tmp_path):
    child = Script("import sys; print('life', sys.argv[1]); sys.exit(7)", tmp_path / "log")
    child.worked = True
    child.start()
    assert until_it_ends(child, 1.0).then == "restart"
    assert child.state == "restarting"
    assert child.due == 1.0 + FIRST_DELAY
    child.start()
    until_it_ends(child, 3.0)
    assert child.tail() == ["life 0", "life 1"]


def test_earlier_crashes_are_forgiven(tmp_path):
    child = Script("import sys; sys.exit(7)", tmp_path / "log")
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


@pytest.fixture
def processes(tmp_path, monkeypatch):
    monkeypatch.setenv("SOULSAI__RUN__SEED", "99")
    private, logs = tmp_path / "private", tmp_path / ".starting-x"
    private.mkdir()
    logs.mkdir()
    config = Config(run=RunSettings(seed=5, clients=3), client=ClientSettings())
    return RunProcesses(
        config, private, logs, client_prefix="client", start=0, resume=lambda: "a_run"
    )


def test_everybody_gets_the_same_private_settings(processes):
    files = {child.words(0)[1] for child in processes}
    assert len(files) == 1
    file = processes.training.log.parents[1] / "private" / "config.json"
    assert files == {str(file)}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["run"]["seed"] == 5


def test_settings_in_variables_do_not_count_twice(processes):
    assert not any(name.startswith("SOULSAI__") for name in processes.training.environ)
    assert "SOULSAI_PARENT" in processes.training.environ


def test_no_module_of_the_current_folder_is_imported(processes):
    assert processes.training.command_line()[1:4] == ["-P", "-m", "soulsai"]


def test_training_node_goes_on_with_the_run(processes):
    assert processes.training.words(1)[2:] == ["--resume", "a_run"]


def test_clients_have_names_and_the_environment_that_the_user_chose(processes):
    words = [child.words(0) for child in processes.clients]
    assert [child.name for child in processes.clients] == ["client-1", "client-2", "client-3"]
    assert all("LunarLander-v3" in each for each in words)
    assert len({each[each.index("--seed") + 1] for each in words}) == 3


def test_seeds_repeat_but_never_coincide():
    seeds = {
        client_seed(run, start, number, life)
        for run in range(4)
        for start in (0, 7)
        for number in range(1, 9)
        for life in range(4)
    }
    assert len(seeds) == 4 * 2 * 8 * 4
    assert client_seed(1, 0, 1, 0) == client_seed(1, 0, 1, 0)


def test_logs_move_into_the_run_once(processes, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    processes.training.log.write_text("said\n")
    processes.move_logs(run)
    assert processes.training.tail() == ["said"]
    assert processes.training.log == run / "logs" / "training-node.log"
    processes.move_logs(tmp_path / "other")
    assert processes.training.tail() == ["said"]


@pytest.mark.parametrize(
    ("every", "cores", "wanted"),
    [("auto", 3, False), ("auto", 4, True), (1, 1, True), (0, 64, False)],
)
def test_an_evaluator_runs_where_a_core_is_free_or_where_it_is_wished(every, cores, wanted):
    config = Config(evaluate=EvaluateSettings(every=every))
    assert evaluates(config, cores) is wanted


def test_the_evaluator_begins_when_there_is_a_run(tmp_path):
    config = Config(run=RunSettings(seed=5, saves="s"), evaluate=EvaluateSettings(every=1))
    ours = RunProcesses(
        config, tmp_path, tmp_path, client_prefix="client", start=0, resume=lambda: "a_run"
    )
    assert ours.evaluator.due == float("inf")
    assert ours.evaluator.words(0)[2:] == ["--saves", "s", "--run", "a_run"]
    assert [*ours][-1] is ours.evaluator
