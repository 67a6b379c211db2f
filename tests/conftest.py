"""What all tests share: one thread for numbers, no settings of the machine's, nothing left over."""

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time

import hypothesis
import psutil
import pytest

# Before anybody imports what reads them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
for name in [name for name in os.environ if name.startswith("SOULSAI_")]:
    del os.environ[name]

# A shell's background job and nohup ignore Ctrl-C, which processes of tests would inherit.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What clients with a name cannot send waits there; nobody's own folder is to be touched.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="soulsai-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile(
    "soulsai", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("soulsai")

LEAVING_SECONDS = 5.0


def pytest_collection_modifyitems(items):
    """Mark numbered tests as conformance, and those that run Debian's Redis as tools."""
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if any(isinstance(value, str) and value == "redis-server" for value in values):
            item.add_marker(pytest.mark.tools)
        if re.match(r"test_\d+_", item.name):
            item.add_marker(pytest.mark.conformance)


@pytest.fixture(autouse=True)
def nothing_left_over():
    """Fail a test after which a process or a thread goes on that was not there before."""
    processes = set(psutil.Process().children(recursive=True))
    threads = set(threading.enumerate())
    yield
    if memory_server := sys.modules.get("tests.memory_server"):
        memory_server.close_all()
    deadline = time.monotonic() + LEAVING_SECONDS
    while time.monotonic() < deadline:
        left = _processes() - processes
        alive = set(threading.enumerate()) - threads
        if not left and not alive:
            return
        time.sleep(0.01)
    said = [f"{process.pid} {_words(process)}" for process in left]
    for process in left:
        process.kill()
    pytest.fail(f"left over: {said} {[thread.name for thread in alive]}")


def _processes() -> set[psutil.Process]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "gone"
