"""No process of ours calls anybody but our server, nor writes what ONNX Runtime would report."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.client_cases import TOY, Node, Place, until
from tests.system.train_cases import SMALL, soulsai

REPORTS_AFTER = 10.0  # seconds that ONNX Runtime 1.32 collects before it reports
SHORT = pytest.param(2.0)
LONG = pytest.param(REPORTS_AFTER + 4.0, marks=pytest.mark.long)


class Proxy:
    """A proxy that writes down what it is asked for, and serves nothing."""

    def __init__(self, folder):
        self.calls = []
        self._folder = folder
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        names = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
        self.environ = {
            **{name: address for each in names for name in (each, each.lower())},
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._listener.close()

    def found(self):
        """Return the calls, and the files of the runtime's reports."""
        files = [str(path.relative_to(self._folder)) for path in self._folder.rglob("*")]
        return self.calls + [name for name in files if "onnxruntime" in name.lower()]

    def _serve(self):
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection:
                self.calls.append(connection.recv(200))


@pytest.fixture
def proxy(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    with Proxy(folder) as made:
        yield made


def test_the_proxy_and_the_folder_would_show_it(proxy):
    """The released runtime without our setting leaves a file, so the tests below can fail."""
    code = "import onnxruntime"
    environ = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    subprocess.run([sys.executable, "-c", code], env={**environ, **proxy.environ}, check=True)
    assert any("onnxruntime" in found for found in proxy.found())


@pytest.mark.parametrize("isolate", ["true", "false"])
@pytest.mark.parametrize("seconds", [SHORT, LONG])
def test_a_client_and_its_isolated_environment(tmp_path, proxy, seconds, isolate):
    with EmbeddedServer() as server:
        node = Node(Place(server))
        words = ["client", "--redis", server.url, "--secrets", str(server.secrets), "--env", TOY]
        words += ["--name", "one", f"--set=environment.isolate={isolate}"]
        with (tmp_path / "log").open("w") as log:
            client = subprocess.Popen(
                [sys.executable, "-m", "soulsai", *words],
                env={**os.environ, **proxy.environ}, stdout=log, stderr=log, cwd=tmp_path,
            )  # fmt: skip
        try:
            until(lambda: node.listen() > 50)
            began = time.monotonic()
            until(lambda: node.listen() and time.monotonic() - began > seconds)
        finally:
            client.terminate()
            client.wait(20)
        node.wire.close()
    assert proxy.found() == []


@pytest.mark.long
def test_training_the_evaluator_and_the_doctor(tmp_path, proxy):
    words = ["--env", TOY, "--max-env-steps", "4000", "--set", "environment.isolate=true", *SMALL]
    trained = soulsai("train", *words, cwd=tmp_path, **proxy.environ)
    assert trained.returncode == 0, trained.stderr
    evaluated = soulsai("evaluate", "latest", "--episodes", "3", cwd=tmp_path, **proxy.environ)
    assert evaluated.returncode == 0, evaluated.stderr
    checked = soulsai("doctor", cwd=tmp_path, **proxy.environ)
    assert "Traceback" not in checked.stderr
    assert proxy.found() == []
