"""How a run ends before its time: saved where anybody asks for it, and never with orphans."""

import time

import psutil

from tests.system.train_cases import CARTPOLE, INTERRUPT, Training, complaint, soulsai

LEARNING = ("--max-env-steps", "0", *CARTPOLE)


def alive(processes):
    return [
        process
        for process in processes
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def test_ctrl_c_saves_and_sums_up(tmp_path):
    with Training(tmp_path, *LEARNING) as training:
        training.until("learning", lambda status: status.updates > 100)
        processes = training.children()
        code, summary = training.end(INTERRUPT)
        assert code == 130
        assert summary["updates"] > 100
        assert list(training.run_folder().glob("checkpoints/*/manifest.json"))
        assert (training.run_folder() / "summary.json").is_file()
        assert not alive(processes)


def test_ctrl_c_reaches_the_children_only_through_the_supervisor(tmp_path):
    with Training(tmp_path, *LEARNING) as training:
        groups = {training.process.pid}
        for word in ("training-node", "telemetry-node", "client-1", "client-2"):
            groups.add(psutil.os.getpgid(training.child(word).pid))
        assert len(groups) == 5, "everybody has a process group of his own"
        code, _ = training.end(INTERRUPT)
        assert code == 130


def test_stop_ends_the_run_with_success(tmp_path):
    with Training(tmp_path, *LEARNING) as training:
        training.until("learning", lambda status: status.updates > 10)
        stopped = soulsai("stop", cwd=tmp_path)
        assert stopped.returncode == 0, stopped.stderr
        code, summary = training.end()
        assert (code, summary["phase"]) == (0, "ended")
        assert "no run is going on" in complaint(soulsai("status", cwd=tmp_path))


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path):
    with Training(tmp_path, *LEARNING) as training:
        training.until("learning", lambda status: status.updates > 10)
        processes = training.children()
        assert len(processes) >= 5  # what makes compiled updates may be there, too
        training.process.kill()
        training.process.wait()
        deadline = time.monotonic() + 30  # ten seconds are theirs; disks are slow
        while alive(processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(processes)
