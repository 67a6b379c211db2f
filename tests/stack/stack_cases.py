"""The stack in a folder of its own, on a real Docker engine, as an operator would start it."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import msgspec

from soulsai import connect
from soulsai.config.schema import Config, RedisSettings
from soulsai.errors import SoulsAIError

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
NETWORKS = ("train_server_net", "server")
CORE = ("-f", "docker-compose.yaml", "-f", "test.yaml")
MONITORING = ("-f", "deploy/monitoring/compose.yaml")
PROXY = ("-f", "deploy/reverse_proxy/compose.yaml")
PLAYS = """
environment: {id: CartPole-v1}
run: {max_env_steps: 0}
dqn: {hidden: [16, 16], quantiles: 1, learning_starts: 300, slack_steps: 2000, replay_ratio: 0.5}
checkpoint: {every: 300}
"""
# Players as slow as a game, so that tests measure the stack and not the machine.
SLOW = """
services:
  client:
    command: [client, --step-delay, "0.01"]
"""


def run(*words, cwd, timeout=300, check=True, **more):
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **more},
    )
    if check and done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, words))}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def until(what, condition, timeout=PATIENCE):
    """Wait until ``condition()`` is true, and return what it gave."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise TimeoutError(what)


def busy():
    """Return how many times slower than alone we are, at least, for what others do here."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stack:
    """The compose files, copied to where nobody's own settings and secrets are."""

    def __init__(self, folder):
        self.port = free_port()
        self.took = {}
        self.environ = {"SOULSAI_PORT": str(self.port)}
        present = run("docker", "network", "ls", "--format", "{{.Name}}", cwd=ROOT).split()
        for network in set(NETWORKS) & set(present):
            if run("docker", "ps", "-aq", "-f", f"network={network}", cwd=ROOT):
                raise RuntimeError("a training server runs on this Docker engine; stop it first")
            run("docker", "network", "rm", network, cwd=ROOT)
        self.fresh(folder)

    def fresh(self, folder):
        """Be another checkout."""
        self.folder = folder
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "docker-compose.yaml", folder)
        shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=_own)
        (folder / "config").mkdir()
        (folder / "config/config.yaml").write_text(PLAYS)
        (folder / "test.yaml").write_text(SLOW)
        folder.chmod(0o755)

    def setup(self):
        return run("deploy/setup.sh", cwd=self.folder, **self.environ)

    def compose(self, files, *words, **more):
        return run("docker", "compose", *files, *words, cwd=self.folder, **self.environ, **more)

    def up(self, files, *words):
        """Start services and wait until they are healthy; remember how long that took."""
        begin = time.monotonic()
        self.compose(files, "up", "-d", "--wait", "--no-build", "--pull", "never", *words)
        self.took[files] = time.monotonic() - begin

    def down(self):
        paused = run("docker", "ps", "-q", "-f", "status=paused", "-f", "name=soulsai-", cwd="/")
        for container in paused.split():
            run("docker", "unpause", container, cwd="/")  # frozen, it could not be removed
        for files in (PROXY, MONITORING, CORE):
            if (self.folder / files[1]).exists():
                self.compose(files, "--profile", "*", "down", "-t", "5", check=False)
        run("docker", "network", "rm", *NETWORKS, cwd="/", check=False)

    def containers(self, files=CORE):
        """Return the names of running containers by service."""
        found = {}
        for line in self.compose(files, "ps", "--format", "json").splitlines():
            entry = json.loads(line)
            found.setdefault(entry["Service"], []).append(entry["Name"])
        return found

    def names(self, *stacks):
        """Return the names of all running containers."""
        return [
            name
            for files in stacks or (CORE, MONITORING)
            for names in self.containers(files).values()
            for name in names
        ]

    def inspect(self, container):
        return json.loads(run("docker", "inspect", container, cwd=self.folder))[0]

    def execute(self, container, script, **more):
        """Run a script inside a container, as its user."""
        return run("docker", "exec", container, "sh", "-c", script, cwd=self.folder, **more)

    def kill(self, container):
        """Kill everything in a container from inside, which is not taken for a wish to stop it."""
        self.execute(container, "kill -9 -1", check=False)

    def operator(self):
        url, secrets = f"redis://127.0.0.1:{self.port}", str(self.folder / "config/secrets")
        return connect.operator(Config(redis=RedisSettings(url=url, secrets=secrets)))

    def status(self):
        """Return the training node's status, as an operator on this machine sees it."""
        try:
            with self.operator() as wire:
                return wire.status()
        except SoulsAIError:
            return None

    def until(self, what, condition, timeout=PATIENCE):
        """Wait until a status satisfies a condition; return that status."""
        last = []

        def satisfied():
            last[:] = [self.status()]
            return last[0] if last[0] is not None and condition(last[0]) else None

        try:
            return until(what, satisfied, timeout)
        except TimeoutError as error:
            logs = self.compose(CORE, "logs", "--tail", "15")
            raise TimeoutError(f"{what}\n{last}\n{logs}") from error

    def learning(self):
        return self.until("learning", lambda now: now.phase == "learning" and now.checkpoint)

    def progress(self, what, clients):
        """Wait until more has been learnt, and as many clients play; return that status."""
        before = until("a status", self.status)
        return self.until(
            what,
            lambda now: (
                now.updates > before.updates + 20
                and now.env_steps > before.env_steps + 100
                and sum(client.state != "lost" for client in now.clients) >= clients
            ),
        )

    def run_folder(self):
        return max((self.folder / "saves").glob("*/config.json")).parent

    def marks(self):
        """Return how many env steps each client says it took, by the newest checkpoint."""
        newest = max((self.run_folder() / "checkpoints").glob("[0-9]*"))
        progress = msgspec.json.decode((newest / "progress.json").read_bytes())
        return progress, {client: mark[1] for client, mark in progress["marks"].items()}


def _own(folder, _):
    """Leave out what belongs to the deployment of this checkout, if it is one."""
    return {".env", "__pycache__"} | ({"www", "conf"} if Path(folder).name == "certbot" else set())
