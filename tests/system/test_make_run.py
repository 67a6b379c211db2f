"""``make run`` in a terminal: Ctrl-C saves, and neither make nor the shell calls it a failure."""

import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, folder):
        self.said = ""
        self._process = psutil.Popen(
            [sys.executable, "-c", "import pty; pty.spawn(['sh'])"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        left = self._process.children(recursive=True)
        for process in [*left, self._process]:
            process.kill()
        psutil.wait_procs(left, timeout=15)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def type(self, text):
        self._process.stdin.write(text.encode())

    def until(self, word):
        """Read until a word comes; return all that came after the last one."""
        start, deadline = len(self.said), time.monotonic() + PATIENCE
        while word not in self.said[start:]:
            assert time.monotonic() < deadline, self.said[start:]
            if select.select([self._process.stdout], [], [], 0.1)[0]:
                self.said += self._process.stdout.read(65536).decode(errors="replace")
        return self.said[start:]


def test_ctrl_c_is_no_failure(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / ".venv" / ".ready-run").touch()
    with Terminal(tmp_path) as terminal:
        terminal.type("ARGS='--env CartPole-v1' make run\n")
        terminal.until("client-1")
        terminal.type("\x03")
        said = terminal.until("train --resume")
        terminal.type("echo do''ne\n")
        said += terminal.until("done")
    assert "***" not in said, "make calls it an error"
    assert "Error" not in said
    assert "stopping" in said
