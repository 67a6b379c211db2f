"""A server for other machines: its settings made by one command, and the whole by another."""

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from soulsai.config.schema import RedisSettings
from soulsai.errors import ConfigError, WrongScheme
from soulsai.identity import folder as secrets_folder
from soulsai.wire.protocols import Position
from soulsai.wire.redis.connection import RedisConnection
from soulsai.wire.redis.embedded_server import shared_server
from soulsai.wire.redis.roles import connect_client, connect_training
from soulsai.wire.secrets import server_for
from tests.programs import installed
from tests.system.train_cases import CARTPOLE, Training, complaint, soulsai

pytestmark = pytest.mark.tools  # TLS needs Debian's redis-server

STEPS = ("--set", "environment.id=CartPole-v1", *CARTPOLE[2:], "--set", "run.max_env_steps=0")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Serving(Training):
    """``soulsai serve`` as a process, in a folder of its own."""

    COMMAND = "serve"


class Volunteer:
    """``soulsai client`` with an invite, in a folder of its own."""

    def __init__(self, folder, invite):
        self.log = folder / "client.log"
        with self.log.open("w") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "soulsai", "client", "--invite", str(invite)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def test_a_volunteer_plays_after_three_commands_and_is_shut_out_by_one(tmp_path):
    here, there = tmp_path / "server", tmp_path / "volunteer"
    here.mkdir()
    there.mkdir()
    port = str(free_port())
    with Serving(here, "--host", "localhost", "--port", port, *STEPS) as server:
        server.until("a status", bool)
        said = server.errors()
        assert f"Clients reach this server at rediss://localhost:{port}" in said
        assert "enroll NAME --out NAME.invite" in said
        invited = soulsai("enroll", "lab", "--out", there / "lab.invite", cwd=here)
        assert invited.returncode == 0, invited.stderr
        with Volunteer(there, there / "lab.invite") as volunteer:
            before = server.until("env steps", lambda status: status.env_steps > 500)
            assert "playing env_steps=" in volunteer.log.read_text(), "its user sees it work"
            server.child("redis-server").kill()
            server.until("more", lambda status: status.env_steps > before.env_steps + 500)
            assert "the server died" in server.errors()
            assert soulsai("revoke", "lab", cwd=here).returncode == 0
            assert volunteer.process.wait(60) == 5
            assert "refuses the invite of lab: it was revoked" in volunteer.log.read_text()
            assert "played env_steps=" in volunteer.log.read_text()
        left = server.children()
        assert server.end(signal.SIGINT)[0] == 130
        assert not any(process.is_running() for process in left)
    with Serving(here, "--resume", "latest", *STEPS) as server:
        after = server.until("the same run", bool)
        assert after.env_steps >= before.env_steps
        assert server.end(signal.SIGTERM)[0] == 143


def test_serve_without_a_name_or_with_another_server_says_so(tmp_path):
    assert "--host" in complaint(soulsai("serve", cwd=tmp_path))
    assert not (tmp_path / "config").exists()
    elsewhere = ("--set", "redis.url=redis://localhost", "--host", "h")
    assert "soulsai train --clients 0" in complaint(soulsai("serve", *elsewhere, cwd=tmp_path))


@pytest.fixture(params=[True, False], ids=["tls", "plain"])
def server(request, tmp_path):
    folder = tmp_path / "secrets"
    hosts = ["localhost"] if request.param else []
    secrets_folder.init(folder, hosts=hosts, port=free_port(), now=datetime.now(UTC))
    environ = {"SOULSAI_REDIS_SERVER": str(installed("redis-server"))}
    started = shared_server(folder, environ)
    with started.process:
        yield started, environ


def test_the_server_of_the_secrets_keeps_what_it_was_told(server):
    (url, folder, process), environ = server
    settings = RedisSettings(url=url, secrets=str(folder))
    client = connect_client(server_for("client", settings, {}), "kept", "c1")
    client.push([(Position(1, 1), b"x")])
    client.close()
    process.stop()
    with shared_server(folder, environ).process:
        node = connect_training(server_for("training_node", settings, {}), "kept")
        assert [entry.position for entry in node.read({"c1": Position(0, 0)}, 0)] == [(1, 1)]
        node.close()


def test_an_address_of_the_wrong_kind_is_recognised(server):
    (url, *_), _ = server
    scheme, _, place = url.partition("://")
    other = {"redis": "rediss", "rediss": "redis"}[scheme]
    link = RedisConnection(
        server_for("client", RedisSettings(url=f"{other}://{place}", secrets="none"), {}), "t"
    )
    with pytest.raises(WrongScheme, match=f"use {scheme}://{place}"):
        link.execute("PING")
    link.close()


def test_a_port_in_use_is_said_before_a_second_server_is_started(server):
    (_, folder, _), environ = server
    with pytest.raises(ConfigError, match="is in use"):
        shared_server(folder, environ)


def test_commands_find_the_server_of_the_secrets_by_themselves(server, tmp_path):
    enrolled = soulsai(
        "enroll", "lab", "--address", "rediss://localhost:1", "--secrets", "secrets", cwd=tmp_path
    )
    assert enrolled.returncode == 0, enrolled.stderr
    listed = soulsai("clients", "--secrets", "secrets", cwd=tmp_path)
    assert "lab  not connected" in listed.stdout
