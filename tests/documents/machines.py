"""The machines on which the commands of the pages are typed, each fresh."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.documents.blocks import ROOT

HOST = "train.example.org"  # the pages' server; here it is this machine
INSTALL_SECONDS, COMMAND_SECONDS, LEAVE_SECONDS = 900.0, 400.0, 60.0
STEPS = "1500"  # of a run that a page lets go on to its end

# Commands that go on until Ctrl-C, and the words by which each says that it works.
GO_ON = {
    r"make run$": r"(warming up|learning):",
    r"soulsai serve ": r"page (http|waits)",  # another program may have the port of the page
    r"soulsai train$": r"page http",
    r"soulsai client ": r"environment=\S+ count=",
    r"soulsai training-node": r"run (begun|resumed) run=",
    r"soulsai telemetry-node": r"page url=http",
    r"soulsai status --watch": r"env steps",
    r"redis-server ": r"Ready to accept connections",
}
CTRL_C = (r"(warming up|learning):", signal.SIGINT)
LEFT = {0, 130, -signal.SIGINT, 5}  # well, by Ctrl-C, or because the page has revoked it

_DNS = f"""
import socket
found = socket.getaddrinfo
def getaddrinfo(host, *words, **more):
    return found("127.0.0.1" if host == {HOST!r} else host, *words, **more)
socket.getaddrinfo = getaddrinfo
"""


def ready_word(line):
    """Return the pattern by which a command that goes on says that it works; empty: none."""
    return next((word for each, word in GO_ON.items() if re.match(each, line)), "")


class Going:
    """A command in a terminal of its own."""

    def __init__(self, line, process, output):
        self.line, self.process, self._output = line, process, output

    @property
    def said(self):
        return self._output.read_text(errors="replace")

    def until(self, pattern, seconds):
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.said):
            ended = self.process.poll() is not None
            if ended and not re.search(pattern, self.said):
                raise AssertionError(f"{self.line}: ended: {self.said}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.line}: no {pattern!r} in: {self.said}")
            time.sleep(0.1)

    def end(self, number=signal.SIGINT):
        """Press Ctrl-C; return the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        try:
            return self.process.wait(LEAVE_SECONDS)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Machine:
    """A folder, an environment, and the terminals in it."""

    def __init__(self, folder, wheels, *, has_python=True):
        self.folder = folder / "home"
        self.folder.mkdir(parents=True)
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._prelude = []
        self.going = []
        path = [str(Path(sys.executable).resolve().parent), "/usr/local/bin", "/usr/bin", "/bin"]
        links = [str(wheels), *os.environ.get("PIP_FIND_LINKS", "").split()]
        kept = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        self._environ = kept | {
            "HOME": str(folder),
            "PIP_FIND_LINKS": " ".join(links),
            "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip")),
            "LANG": "C.UTF-8",
        }
        if has_python:
            venv = folder / "venv"
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            path.insert(0, str(venv / "bin"))
            (site,) = venv.glob("lib/python*/site-packages")
            (site / "sitecustomize.py").write_text(_DNS)
        self._environ["PATH"] = os.pathsep.join(path)

    def start(self, line, steps):
        """Start a command in a new terminal."""
        output = self._logs / f"{len(list(self._logs.iterdir()))}.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                ["bash", "-c", "\n".join([*self._prelude, line])],
                cwd=self.folder,
                env=self._environ | {"SOULSAI__RUN__MAX_ENV_STEPS": steps},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Going(line, process, output)

    def run(self, line, *, interrupted=False):
        """Type a command, and wait for its end if it has one by itself; return its output."""
        if line.startswith("source "):
            self._prelude.append(line)
        ready = ready_word(line)
        install = line.startswith(("pip ", "make run"))
        if interrupted or ready:
            going = self.start(line, "0")
            self.going.append(going)
            seconds = INSTALL_SECONDS if install else COMMAND_SECONDS
            going.until(ready or CTRL_C[0], seconds)
            if interrupted or line == "make run":
                self.leave(going)
            return going.said
        going = self.start(line, STEPS)
        try:
            code = going.process.wait(INSTALL_SECONDS if install else COMMAND_SECONDS)
        finally:
            going.end(signal.SIGKILL)
        assert code == 0, f"{line}: exit code {code}: {going.said}"
        return going.said

    def leave(self, going):
        """End a command that goes on, and check that it ends well."""
        code = going.end()
        self.going.remove(going)
        assert code in LEFT, f"{going.line}: exit code {code}: {going.said}"
        assert "Traceback" not in going.said, going.said
        assert "***" not in going.said, "make calls Ctrl-C an error"

    def leave_all(self):
        for going in reversed([*self.going]):
            self.leave(going)

    def kill_all(self):
        for going in self.going:
            going.end(signal.SIGKILL)


def copy_checkout(folder):
    """Copy the files of this checkout that git knows, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
