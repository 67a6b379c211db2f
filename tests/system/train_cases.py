"""Whole systems in tests: ``soulsai`` as a process, waited for by what it says of itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from soulsai import connect, runs
from soulsai.config import load
from soulsai.errors import SoulsAIError

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0  # seconds; for machines that have much else to do
SMALL = (
    *("--set", "dqn.hidden=16,16"),
    *("--set", "dqn.quantiles=1"),
    *("--set", "dqn.learning_starts=300"),
    *("--set", "dqn.slack_steps=400"),
    *("--set", "checkpoint.every=300"),
    *("--set", "evaluate.every=0"),  # the same on machines with any number of cores
)
CARTPOLE = ("--env", "CartPole-v1", *SMALL)


def environ(**more):
    before = more.pop("before", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*before.split(), str(ROOT)]), **more}


def soulsai(*words, cwd, timeout=PATIENCE, **more):
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "soulsai", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environ(**more),
        timeout=timeout,
    )


def complaint(done):
    """Return the one line with which a command failed."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("soulsai: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == lines[0], "the reason is the last line"
    return lines[0]


def until(what, condition, timeout=PATIENCE):
    """Wait until ``condition()`` is true, and return what it gave."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(what)


class Training:
    """``soulsai train`` as a process, in a folder of its own."""

    COMMAND = "train"

    def __init__(self, folder, *words):
        self.folder = folder
        self.saves = folder / "saves"
        self.server = ()  # settings that say where it is, if it is not a private one
        self._errors = (folder / "stderr").open("w+")
        self.process = psutil.Popen(
            [sys.executable, "-m", "soulsai", self.COMMAND, "--json", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=folder,
            env=environ(),
            start_new_session=True,
        )
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        children = []
        if self.process.poll() is None:
            children = self.children()
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._errors.close()
        for child in psutil.wait_procs(children, timeout=15)[1]:
            child.kill()

    def status(self):
        """Return the training node's status, if there is one by now."""
        if self.process.poll() is not None:
            raise RuntimeError(f"it has ended: {self.errors()}")
        if not self.server and runs.running(self.saves) is None:
            return None
        try:
            settings = load(None, {}, [f"run.saves={self.saves}", *self.server])
            with connect.operator(settings) as wire:
                return wire.status()
        except SoulsAIError:
            return None

    def until(self, what, condition):
        """Wait until a status satisfies a condition; return that status."""

        def satisfied():
            status = self.status()
            return status if status is not None and condition(status) else None

        try:
            return until(what, satisfied)
        except TimeoutError as error:
            logs = [f"{log}\n{log.read_text()}" for log in self.saves.glob("*/logs/*.log")]
            raise TimeoutError(
                "\n".join([what, str(self.status()), self.errors(), *logs])
            ) from error

    def children(self):
        return self.process.children(recursive=True)

    def child(self, word):
        """Return the child with this word in its command line."""
        return until(
            f"a process {word}",
            lambda: next((c for c in self.process.children() if word in _words(c)), None),
        )

    def run_folder(self):
        return runs.every(self.saves)[-1]

    def end(self, number=None):
        """Send a signal, if any; return the exit code and the summary, if there was one."""
        if number is not None:
            self.process.send_signal(number)
        said = self.process.stdout.read()
        code = self.process.wait(PATIENCE)
        lines = said.splitlines()
        return code, json.loads(lines[-1]) if lines else None

    def errors(self):
        return (self.folder / "stderr").read_text()


def _words(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


INTERRUPT, TERMINATE = signal.SIGINT, signal.SIGTERM
