"""``soulsai bridge`` as a process, for the tests of games behind it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.system.client_cases import until

EXAMPLES = Path(__file__).parents[2] / "examples" / "bridge"
ID = "CartPole-v1"


class Bridge:
    """The command, in a process."""

    def __init__(self, server, folder, name, *words):
        self.log = folder / "bridge.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "soulsai", "bridge", "--redis", server.url, "--port"),
                    *("0", "--secrets", str(server.secrets), "--name", name, *words),
                ],
                stdout=log, stderr=subprocess.STDOUT, cwd=folder,
            )  # fmt: skip

    @property
    def said(self):
        return self.log.read_text()

    @property
    def port(self):
        until(lambda: "bridge 127.0.0.1:" in self.said or self.process.poll() is not None)
        return re.search(r"bridge 127\.0\.0\.1:(\d+)", self.said)[1]

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
