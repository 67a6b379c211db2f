"""The client where nothing of POSIX is left, and with Windows' rules for files and processes."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from soulsai.types import EnvironmentOffer, Heartbeat
from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.client_cases import TOY, Node, Place, until
from tests.system.test_client_spool import epochs, kill, spooled
from tests.windows import simulation, stubs

ID = "tests.system.sick_env:Sick"
ON_SERVERS = {"soulsai.telemetry_node", "soulsai.wire.redis.embedded_server"}


def python(program, folder, *words):
    """Return the lines of a program of ``tests/windows``."""
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", simulation.ROOT / "tests/windows" / program,
         *words],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_typeshed_tells_what_windows_lacks():
    assert {"fork", "getuid", "setsid", "killpg", "nice"} <= stubs.hidden("os")
    assert {"SIGKILL", "SIGHUP", "setitimer"} <= stubs.hidden("signal")
    assert "AF_UNIX" in stubs.hidden("socket")
    for name in ("fcntl", "resource", "pwd", "grp", "termios"):
        assert stubs.is_absent(name)
    for name in ("os", "signal", "sqlite3", "ctypes.wintypes"):
        assert not stubs.is_absent(name)
    assert not {"replace", "getpid", "environ"} & stubs.hidden("os")


@pytest.mark.parametrize("module", ["win32api", "win32con", "win32job", "pywintypes"])
def test_the_stand_ins_have_no_name_that_pywin32_lacks(module):
    (stub,) = Path(sys.prefix).glob(f"lib/python*/site-packages/win32-stubs/**/{module}.pyi")
    played = (simulation.ROOT / "tests/windows/pywin32" / f"{module}.py").read_text()
    for name in re.findall(r"^(?:def |class )?([A-Za-z]\w+)\b(?= ?[=(:])", played, re.MULTILINE):
        own = name in ("REFUSE", "handlers")
        assert own or re.search(rf"^(def |class )?{name}\b", stub.read_text(), re.MULTILINE), name


def test_the_simulation_refuses_what_windows_refuses(tmp_path):
    said = dict(line.split(": ") for line in python("refused.py", tmp_path))
    assert said == {
        "module": "ModuleNotFoundError", "name": "ImportError", "attribute": "AttributeError",
        "socket": "AttributeError", "fork": "AttributeError", "really forks": "OSError",
        "signal": "ValueError", "session": "ValueError", "select": "OSError",
        "folder": "PermissionError", "device": "OSError", "colon": "OSError", "dot": "OSError",
        "open": "PermissionError", "around": "PermissionError", "exists": "FileExistsError",
        "encoding": "EncodingWarning",
    }  # fmt: skip


def test_only_servers_have_modules_that_windows_cannot_load(tmp_path):
    failed = [line.split(": ")[0] for line in python("modules.py", tmp_path)]
    of_clients = [
        name for name in failed if not any(name.startswith(server) for server in ON_SERVERS)
    ]
    assert of_clients in ([], ["soulsai.launch.ray_fleet"])  # which needs Ray
    assert len(failed) > len(of_clients)


@contextmanager
def started(folder, *words, **variables):
    """``soulsai`` with words under the simulation, and its output in ``folder``."""
    environ = os.environ | {simulation.FILES: str(folder)} | variables
    environ |= {"LOCALAPPDATA": str(folder / "AppData"), "PYTHONPATH": str(simulation.ROOT)}
    with (folder / "said").open("ab") as log:
        process = subprocess.Popen(
            simulation.command("soulsai", *words), cwd=folder, env=environ, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(folder):
    return (folder / "said").read_text()


@pytest.fixture
def server(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with EmbeddedServer(tmp_path / "server", port) as server:  # Windows has no Unix sockets
        yield server


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "windows"
    folder.mkdir()
    return folder


def client(server, id=TOY):
    return (
        *("client", "--redis", server.url, "--secrets", str(server.secrets), "--env", id),
        *("--name", "one", "--seed", "1", "--step-delay", "0.002"),
    )


@pytest.mark.parametrize("end", [simulation.BREAK, simulation.CLOSE], ids=["ctrl-break", "closed"])
def test_a_client_ends_with_everything_sent(server, folder, end):
    node = Node(Place(server))
    with started(folder, *client(server)) as process:
        until(lambda: node.listen() > 100 or process.poll() is not None)
        process.send_signal(end)
        code = process.wait(20)
    # A console that is closed ends the process at the latest when its handlers have returned.
    assert code == 0 or end == simulation.CLOSE, said(folder)
    assert node.listen() == node.of(Heartbeat)[-1].steps
    assert node.rejected == []
    assert "Traceback" not in said(folder)
    node.wire.close()


def test_a_client_keeps_what_it_cannot_send(server, folder):
    node = Node(Place(server), fragment_seconds=0.2)
    spool = folder / "AppData" / "soulsai" / "spool"
    with started(folder, *client(server)) as process:
        until(lambda: node.listen() > 100 or process.poll() is not None)
        kill(server)
        until(lambda: spooled(spool) > 3_000)
        process.send_signal(simulation.BREAK)
        assert process.wait(20) == 0, said(folder)
    node.wire.close()
    server.restart()
    node.wire = Place(server).training()
    node.wire.clients()
    with started(folder, *client(server)):
        until(lambda: len(epochs(node)) == 2 and len(max(epochs(node).items())[1]) > 50)
        until(lambda: spooled(spool) == 0)
    before = min(epochs(node).items())[1]
    assert before == list(range(len(before)))
    assert "Traceback" not in said(folder)
    node.wire.close()


def test_nothing_stays_behind_of_an_environment_that_breaks(server, folder):
    log = folder / "lives"
    offer = EnvironmentOffer(ID, client_kwargs=("fault", "log", "after"))
    node = Node(Place(server), offer=offer, fragment_steps=4)
    sick = f"--set=client.kwargs={{fault: child, log: '{log}', after: 30}}"
    apart = "--set=environment.isolate=true"
    children = set()

    def child():
        file = log.with_suffix(".child")
        text = file.read_text() if file.exists() else ""
        children.update([int(text)] if text else [])
        return children

    with started(folder, *client(server, ID), sick, apart) as process:
        until(lambda: node.listen() > 40 or process.poll() is not None)
        until(lambda: len(child()) >= 2 or process.poll() is not None)
        until(lambda: node.listen() and node.of(Heartbeat)[-1].faults.get("crash", 0) >= 1)
        process.kill()  # the rest is up to the job
    assert len(children) >= 2, said(folder)
    until(lambda: not any(psutil.pid_exists(pid) for pid in children))
    assert "its process ended with exit code 1" in node.of(Heartbeat)[-1].trouble
    node.wire.close()


def test_an_environment_plays_where_no_job_can_be_joined(server, folder):
    node = Node(Place(server), ID)
    refused = {"SIMULATED_WINDOWS_REFUSES_JOBS": "1"}
    apart = "--set=environment.isolate=true"
    with started(folder, *client(server, ID), apart, **refused) as process:
        until(lambda: node.listen() > 100 or process.poll() is not None)
        process.send_signal(simulation.BREAK)
        assert process.wait(20) == 0, said(folder)
    assert "processes of the environment may stay behind: no job: Access is denied." in said(folder)
    node.wire.close()


def test_an_environment_is_tried(folder):
    with started(folder, "check-env", "CartPole-v1") as process:
        assert process.wait(60) == 0, said(folder)
    assert "OK: CartPole-v1 played" in said(folder)
    fault = "--set=environment.kwargs={fault: segfault}"
    with started(folder, "check-env", ID, fault) as process:
        assert process.wait(60) == 1
    assert "its process ended with exit code 0xc0000005 during step 5" in said(folder)


@pytest.mark.parametrize("words", [["train"], ["serve"], ["training-node", "--redis", "redis://a"]])
def test_a_server_says_that_it_needs_another_system(folder, words):
    with started(folder, *words) as process:
        assert process.wait(60) == 1
    line, = said(folder).splitlines()  # fmt: skip
    assert line == (
        "soulsai: a server and its nodes run on Linux and macOS; on Windows, run them in WSL2"
    )


def test_the_doctor_looks_at_a_server(server, folder):
    Node(Place(server)).wire.close()
    words = ("doctor", "--redis", server.url, "--secrets", str(server.secrets), "--client")
    with started(folder, *words) as process:
        process.wait(60)
    assert "Traceback" not in said(folder)
    assert "redis://127.0.0.1" in said(folder)


def test_a_killed_process_has_the_exit_code_of_windows():
    ended = simulation._Process(["sleep", "100"])
    ended.terminate()
    assert ended.wait(10) == simulation.ENDED
    assert signal.Signals(simulation.BREAK) not in (signal.SIGTERM, simulation.CLOSE)
