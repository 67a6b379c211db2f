"""Programs that pip cannot bring; tests that run one carry the mark ``tools`` (make test-tools)."""

import shutil
from pathlib import Path

import pytest

# Debian's package of each program.
PACKAGES = {
    "redis-server": "redis-server",
    "openssl": "openssl",
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "kubectl": "kubernetes-client",
    "mount": "mount",
    "nginx": "nginx libnginx-mod-stream",
    "node": "nodejs",
}


def installed(name: str) -> Path:
    """Return the path of a program; fail the test if it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed; apt-get install {PACKAGES[name]}")
    return Path(found)
