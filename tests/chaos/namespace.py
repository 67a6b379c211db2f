"""A network and mounts of our own, so that whatever is broken here is gone with this process."""

import ctypes
import os
import shutil
import subprocess
from contextlib import contextmanager

_NEW_MOUNTS, _NEW_NETWORK = 0x00020000, 0x40000000
_RECURSIVE_PRIVATE = 0x4000 | 0x40000


def enter():
    """Move this process, while it has one thread, into namespaces of its own.

    Returns why that is impossible, or nothing. Then there is a loopback, and nobody else on it.
    """
    missing = [tool for tool in ("ip", "iptables") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK | _NEW_MOUNTS):
        return f"no namespaces of our own: {os.strerror(ctypes.get_errno())}"
    libc.mount(None, b"/", None, _RECURSIVE_PRIVATE, None)
    run("ip", "link", "set", "lo", "up")
    try:
        run("iptables", "-S")
    except OSError as error:
        return str(error)
    return ""


@contextmanager
def small_disk(folder, megabytes):
    """Make a folder a disk of so many megabytes, for this process and its children."""
    folder.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    try:
        yield
    finally:
        run("umount", "--lazy", str(folder))


def run(*words):
    """Run a command; raise ``OSError`` with its last words if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
