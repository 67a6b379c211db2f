"""An environment that falls ill in the step or reset it is told to, once per process or always."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from soulsai.testing import ToyEnv

SLEEPER = [sys.executable, "-c", "import time; time.sleep(1000)"]


class Sick(ToyEnv):
    """Its ``fault`` breaks out in its ``after``-th step (of all episodes), or ``where="reset"``.

    With a ``log`` it writes down each life, with its process id; ``lives`` is how many of them
    are sick.
    """

    def __init__(self, fault="", after=5, where="step", log="", lives=10**9, length=8, pace=0.0):
        super().__init__(length)
        self.fault, self.after, self.where, self.pace = fault, after, where, pace
        self.taken, self.resets, self.hoard = 0, 0, []
        if log:
            with Path(log).open("a") as file:
                file.write(f"{os.getpid()}\n")
            if len(Path(log).read_text().splitlines()) > lives:
                self.fault = ""
        if self.fault == "make":
            raise RuntimeError("no game is open")
        if self.fault == "start":
            os._exit(7)
        if self.fault == "child":
            child = subprocess.Popen(SLEEPER)
            Path(log).with_suffix(".child").write_text(str(child.pid))

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        if self.where == "reset" and self.resets >= self.after:
            self.break_out()
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.taken += 1
        if self.where == "step" and self.taken >= self.after:
            self.break_out()
        time.sleep(self.pace)
        return super().step(action)

    def break_out(self):
        match self.fault:
            case "hang":
                ctypes.PyDLL(None).sleep(1000)  # does not let go of Python's lock
            case "loop":
                while True:
                    pass
            case "segfault":
                ctypes.string_at(0)
            case "exit":
                os._exit(3)
            case "raise" | "leave":
                raise SystemExit(3) if self.fault == "leave" else RuntimeError("Player is not here")
            case "once" if self.resets == self.after:
                raise RuntimeError("boss is not there")
            case "nan":
                self._goal = np.nan
            case "slow":
                time.sleep(0.05)
            case "leak":
                self.hoard.append(b"\1" * 5_000_000)
            case "child":
                os._exit(1)
