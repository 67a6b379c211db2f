"""A client's process calls nobody but its server."""

import os
import socket
import subprocess
import sys
import time

import pytest

CODE = """
import soulsai.client.actor, sys, time
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("seconds", [2.0, pytest.param(14.0, marks=pytest.mark.long)])
def test_the_runtime_of_policies_reports_nothing(tmp_path, seconds):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.2)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environ = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environ |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        environ |= {"HTTPS_PROXY": address, "https_proxy": address, "HTTP_PROXY": address}
        calls = []
        with subprocess.Popen([sys.executable, "-c", CODE, str(seconds)], env=environ) as client:
            deadline = time.monotonic() + 60
            while client.poll() is None and time.monotonic() < deadline:
                try:
                    connection, _ = proxy.accept()
                except TimeoutError:
                    continue
                with connection:
                    calls.append(connection.recv(200))
        assert client.returncode == 0
    assert calls == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
