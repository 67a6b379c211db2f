"""S3: the secrets of a whole system, which also crashes, are found nowhere but in their files."""

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from soulsai import connect
from soulsai.config.schema import Config, RunSettings
from soulsai.errors import SoulsAIError
from soulsai.wire.invite import from_line
from soulsai.wire.names import ROLES
from soulsai.wire.secrets import file_of, read_secret
from tests.system.identity_cases import KINDS, free_port, guarded, until
from tests.system.train_cases import SMALL, environ

CARTPOLE = ("--set", "environment.id=CartPole-v1", *SMALL)
PAGES = ("/metrics", "/healthz", "/api/v1/runs", "/api/v1/clients", "/api/v1/config",
         "/api/v1/events", "/api/v1/models", "/api/v1/session", "/api/v1/openapi.json",
         "/openapi.json", "/api/v1/status", "/", "/api/v1/nothing")  # fmt: skip
PATIENCE = 120.0
CRASH = """
import redis.connection
def connect(self, *_, **__):
    raise RuntimeError("a mistake of ours")
redis.connection.AbstractConnection.connect = connect
"""


@pytest.fixture
def system(tmp_path):
    """Give a server whose secrets are canaries, and a folder for what its nodes say."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for role in ROLES:
        file_of(secrets, role).write_text(f"requirepass canary-{role}-{os.urandom(12).hex()}\n")
    (secrets / "page.secret").write_text(f"canary-page-{os.urandom(12).hex()}\n")
    settings = ("appendonly yes", "slowlog-log-slower-than 0", "slowlog-max-len 5000")
    with guarded(tmp_path, KINDS[0], settings=settings) as server:
        yield System(server)


class System:
    def __init__(self, server):
        self.server = server
        self.folder = server.folder
        self.place = ("--redis", server.url, "--secrets", str(server.secrets))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.seen: dict[str, bytes] = {}  # by where

    def start(self, stack, name, *words, before=""):
        log = stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "soulsai", *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
            env=environ(before=before),
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.kill)
        self.processes[name] = process
        arguments = Path(f"/proc/{process.pid}/cmdline")  # empty for a moment, while it begins
        until(arguments.read_bytes, PATIENCE)
        self.seen[f"arguments of {name}"] = arguments.read_bytes()
        return process

    def status(self):
        with suppress(SoulsAIError):
            config = Config(redis=self.server.settings(), run=RunSettings())
            with connect.operator(config) as wire:
                return wire.status()
        return None

    def canaries(self):
        """Return every secret there is, in the forms in which it might be written somewhere."""
        texts = [read_secret(file) for file in self.server.secrets.glob("*.secret")]
        texts.append(read_secret(self.server.secrets / "manifest.key").partition(":")[2])
        line = (self.folder / "lab.invite").read_text()
        texts += [from_line(line, "test").password, line.strip()[-60:]]
        plain = [text.encode() for text in texts]
        return [*plain, *map(base64.b64encode, plain), *(one.hex().encode() for one in plain)]

    def page(self, port, token):
        for path in PAGES:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
            request.add_header("authorization", f"Bearer {token}")
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    self.seen[f"page {path}"] = answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    self.seen[f"page {path}"] = error.read()

    def ask_server(self):
        for role, words in (
            ("metrics", ("SLOWLOG", "GET", 5000)), ("metrics", ("INFO", "everything")),
            ("admin", ("CLIENT", "LIST")), ("admin", ("ACL", "GETUSER", "c-lab")),
        ):  # fmt: skip
            link = self.server.link(role)
            self.seen[" ".join(map(str, words))] = repr(link.execute(*words)).encode()
            link.close()

    def files(self):
        for path in self.folder.rglob("*"):
            own = path.parent == self.server.secrets or path.name == "lab.invite"
            if path.is_file() and (not own or path.name == "users.acl"):
                self.seen[str(path.relative_to(self.folder))] = path.read_bytes()


def test_no_secret_is_anywhere_but_in_its_file(system):
    assert system.server.command(
        "enroll", "lab", "--address", system.server.url, "--out", system.folder / "lab.invite"
    ) == 0  # fmt: skip
    with ExitStack() as stack:
        run_for_a_while(system, stack)
        system.ask_server()
        for words in (("status",), ("quicksave",), ("clients",), ("doctor", "--json"), ("config",)):
            system.seen[f"command {words[0]}"] = command(system, *words)
        crash(system, stack)
    system.files()
    hits = {
        where: canary[:12]
        for where, data in system.seen.items()
        for canary in system.canaries()
        if canary in data
    }
    assert hits == {}
    assert_it_was_looked_at(system.seen)


def run_for_a_while(system, stack):
    """Start every role, let them learn, and look at the page."""
    saves = system.folder / "saves"
    node = ("training-node", *system.place, "--saves", saves, *CARTPOLE)
    system.start(stack, "training_node", *node)
    port = free_port()
    page = ("--set", f"web.port={port}", "--set", f"run.saves={saves}", "--set",
            f"web.operator_token={system.server.secrets / 'page.secret'}")  # fmt: skip
    system.start(stack, "telemetry_node", "telemetry-node", *system.place, *page)
    system.start(stack, "client", "client", "--invite", system.folder / "lab.invite")
    until(lambda: (now := system.status()) and now.updates > 50, PATIENCE)
    system.page(port, read_secret(system.server.secrets / "page.secret"))


def crash(system, stack):
    """Break what can be broken: by a mistake of ours, a wrong password, and a kill."""
    folder = system.folder / "crash"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CRASH)
    broken = [
        system.start(stack, name, *words, before=str(folder))
        for name, words in (
            ("client_crash", ("client", "--invite", system.folder / "lab.invite")),
            ("status_crash", ("status", *system.place)),
        )
    ]
    words = ("status", "--redis", system.server.url, "--secrets", folder)
    broken.append(system.start(stack, "wrong", *words))
    until(lambda: all(one.poll() is not None for one in broken), PATIENCE)
    for name in ("client", "telemetry_node", "training_node"):
        process = system.processes[name]
        process.send_signal(signal.SIGABRT)  # faulthandler tells the stacks of all threads
        process.wait(PATIENCE)


def command(system, *words):
    place = () if words[0] == "config" else system.place
    done = subprocess.run(
        [sys.executable, "-m", "soulsai", *words, *place], capture_output=True,
        cwd=system.folder, env=environ(), timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def assert_it_was_looked_at(seen):
    """Else nothing would have been found, either."""
    assert b"soulsai_" in seen["page /metrics"]
    assert b"CartPole" in seen["page /api/v1/runs"]
    assert b"XADD" in seen["SLOWLOG GET 5000"]
    assert any("appendonly" in where and b"XADD" in data for where, data in seen.items())
    assert b"a mistake of ours" in seen["client_crash.log"]
    assert b"a mistake of ours" in seen["status_crash.log"]
    assert b"Fatal Python error: Aborted" in seen["telemetry_node.log"]
    assert b"c-lab" in seen["secrets/users.acl"]
    assert any(where.endswith("config.json") for where in seen)
    assert any("manual_save" in where for where in seen)
    assert b"--invite" in seen["arguments of client"]
    assert json.loads(seen["command doctor"].splitlines()[-1])["side"] == "server"
    assert len(seen) > 30
