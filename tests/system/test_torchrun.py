"""A training node of two ranks: one is killed, and the group is started again and goes on."""

import os
import signal
import subprocess
import sys

import msgspec
import psutil
import pytest

from soulsai.training_node.saving import atomic_folders
from soulsai.types import Status
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_client, connect_operator
from soulsai.wire.secrets import server_for
from tests.system.player_cases import Client, settings_of, told, wait_for

LOOPBACK = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module")
def server():
    with EmbeddedServer() as server:
        yield server


def rank_of(process):
    """Which rank a process is, if it is one."""
    try:
        is_ours = "training-node" in process.cmdline()
        return int(process.environ().get("RANK", -1)) if is_ours else -1
    except psutil.Error:
        return -1


def test_a_node_that_starts_its_other_ranks_itself_ends_with_them(server, tmp_path):
    config, settings = settings_of(server, tmp_path)
    operator = connect_operator(server_for("operator", config.redis), "soulsai")
    ours = ["-m", "soulsai", "training-node", str(settings), "--set", "training.ranks=2"]
    node = subprocess.Popen([sys.executable, *ours], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(operator.status)
        (follower,) = (
            child for child in psutil.Process(node.pid).children() if rank_of(child) == 1
        )
        follower.kill()
        said = node.communicate(timeout=60)[1]
    finally:
        operator.close()
        node.kill()
        node.wait()
    assert node.returncode == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("soulsai: another rank is gone or hangs; start")


def test_a_killed_follower_ends_the_group_which_is_started_again_and_resumes(server, tmp_path):
    config, settings = settings_of(server, tmp_path)
    operator = connect_operator(server_for("operator", config.redis), "soulsai")
    before = status.generation if (status := operator.status()) else 0
    wire = connect_client(server_for("client", config.redis), "soulsai", "player")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ours = ["-m", "soulsai", "training-node", str(settings), "--resume", "auto"]
    group = psutil.Popen([sys.executable, *torchrun, "--max-restarts", "1", *ours], env=LOOPBACK)

    try:
        told(operator, lambda now: now.generation == before + 1)
        client = Client(wire)
        for _ in range(6):
            client.play()
        then = told(operator, lambda now: now.env_steps == client.clock and now.checkpoint)
        ranks = {rank_of(child): child for child in group.children()}
        ranks[1].kill()
        assert not psutil.wait_procs([ranks[0]], timeout=30)[1]
        client.play()  # nobody is there
        status = told(
            operator, lambda now: now.generation == before + 2 and now.updates > then.updates
        )
        assert (status.run, status.lost, status.rejected) == (client.spec.run, 0, {})
        told(operator, lambda status: status.env_steps == client.clock)
        group.send_signal(signal.SIGTERM)
        group.wait(60)
        (folder,) = (tmp_path / "saves").iterdir()
        last = msgspec.json.decode((folder / "status.json").read_bytes(), type=Status)
        newest = atomic_folders.numbered(folder / "checkpoints")[-1]
        assert (last.phase, last.env_steps) == ("stopping", client.clock)
        assert (newest.name, atomic_folders.damage(newest)) == (last.checkpoint, None)
    finally:
        for process in [*group.children(recursive=True), group] if group.is_running() else []:
            process.kill()
        group.wait()
        operator.close()
        wire.close()
