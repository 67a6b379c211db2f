"""The shipped configuration runs on the installed NGINX, old or new, without a warning."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.programs import installed
from tests.system.client_cases import until

pytestmark = pytest.mark.tools

CONF = Path(__file__).parents[2] / "deploy/reverse_proxy/nginx/conf"
DOMAIN = "play.example.org"
PORTS = ("8443", "8080", "6380")


@pytest.fixture
def site(tmp_path):
    """Copy the configuration, with folders and ports that are free here, and make a certificate."""
    ports = {port: free_port() for port in PORTS}
    places = {
        "/etc/nginx/conf": tmp_path / "conf",
        "/etc/letsencrypt": tmp_path / "letsencrypt",
        "/tmp/nginx": tmp_path / "run",
        **{f"listen {port}": f"listen 127.0.0.1:{new}" for port, new in ports.items()},
    }
    shutil.copytree(CONF, tmp_path / "conf")
    for path in (tmp_path / "conf").rglob("*.*"):
        text = path.read_text()
        for old, new in places.items():
            text = text.replace(old, str(new))
        path.write_text(text)
    live = tmp_path / "letsencrypt/live" / DOMAIN
    live.mkdir(parents=True)
    subprocess.run(
        [installed("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:{DOMAIN}",
         "-keyout", live / "privkey.pem", "-out", live / "fullchain.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path, int(ports["8443"]), live / "fullchain.pem"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_it_speaks_http2_and_warns_of_nothing(site):
    folder, port, certificate = site
    nginx = installed("nginx")
    environ = {**os.environ, "DOMAIN": DOMAIN, "PATH": f"{nginx.parent}:{os.environ['PATH']}"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["sh", folder / "conf/start.sh"], env=environ, stdout=log, stderr=log
        )
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_alpn_protocols(["h2", "http/1.1"])
    chosen = []

    def answers():
        assert process.poll() is None, (folder / "log").read_text()
        try:
            with (
                socket.create_connection(("127.0.0.1", port), 5) as plain,
                context.wrap_socket(plain, server_hostname=DOMAIN) as secure,
            ):
                chosen.append(secure.selected_alpn_protocol())
        except OSError:
            return False
        return True

    try:
        until(answers)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    assert chosen == ["h2"]
    assert code == 0
    lines = re.findall(r".*\[(?:warn|error|crit|alert|emerg)\].*", (folder / "log").read_text())
    # Without rights, NGINX warns that it cannot choose a user, and opens its first log in vain.
    assert [one for one in lines if '"user"' not in one and "could not open" not in one] == []
