"""Settings of a Redis or Valkey server: every resource is limited, and nothing is evicted."""

import re
from pathlib import Path

from soulsai.errors import ConfigError

FILE = "redis.conf"  # in a folder of secrets
BOUNDS = (
    "maxmemory-policy noeviction",
    "proto-max-bulk-len 4mb",
    "client-query-buffer-limit 8mb",
    "maxclients 4096",
    "client-output-buffer-limit normal 32mb 8mb 10",  # a read of ours has up to 16 MB
    "client-output-buffer-limit pubsub 4mb 1mb 5",
    "maxmemory-clients 25%",  # of maxmemory; the largest connections are closed first
    "tcp-keepalive 30",
)
DURABLE = ("appendonly yes", "appendfsync everysec")
MEMORY_MB = 1536  # of a server for other machines, as in deploy/redis/redis.conf


def private(folder: Path, data: Path | None, port: int, memory_mb: int) -> str:
    """Return the settings of a server for this user only.

    Args:
        folder: Folder of the socket, the users and the log.
        data: Folder of the data, which exists; ``None`` to keep them in memory only.
        port: Port on the loopback interface; 0 for none.
        memory_mb: Limit of the data.
    """
    return _text(
        f"port {port}",
        "bind 127.0.0.1",
        f'unixsocket "{folder / "redis.sock"}"',
        "unixsocketperm 700",
        f'aclfile "{folder / "users.acl"}"',
        f'logfile "{folder / "redis.log"}"',
        f'dir "{data or folder}"',
        *(DURABLE if data is not None else ("appendonly no",)),
        memory_mb=memory_mb,
    )


def shared(
    *, data: Path, users: Path, port: int, certificate: tuple[Path, Path] | None = None
) -> str:
    """Return the settings of a server that keeps its data and its users.

    With a certificate it accepts TLS only, from all addresses: ``bind`` holds for ``port`` and
    ``tls-port`` alike, so a plain port beside it would be open to the network. Without one it
    accepts plain connections of this machine only.

    Args:
        data: Folder of the data.
        users: File of the users.
        port: Port of the server.
        certificate: Files of the certificate and its key.
    """
    if certificate is None:
        network = [f"port {port}", "bind 127.0.0.1 -::1"]
    else:
        network = [
            "port 0",
            f"tls-port {port}",
            "bind * -::*",
            f'tls-cert-file "{certificate[0]}"',
            f'tls-key-file "{certificate[1]}"',
            "tls-auth-clients no",
            'tls-protocols "TLSv1.2 TLSv1.3"',
        ]
    return _text(
        *network,
        "protected-mode no",  # the file of users lets nobody in without a password
        f'aclfile "{users}"',
        f'dir "{data}"',
        *DURABLE,
        memory_mb=MEMORY_MB,
    )


def local_url(file: Path) -> str:
    """Return the URL by which this machine reaches the server of a file that ``shared`` made."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({type(error).__name__})") from None
    ports = dict(re.findall(r"^(tls-port|port) (\d{1,5})$", text, re.MULTILINE))
    if int(ports.get("tls-port", "0")):
        return f"rediss://localhost:{ports['tls-port']}"
    if int(ports.get("port", "0")):
        return f"redis://localhost:{ports['port']}"
    raise ConfigError(f"{file}: has no line `tls-port NUMBER` or `port NUMBER`")


def _text(*lines: str, memory_mb: int) -> str:
    every = (*lines, 'save ""', "daemonize no", f"maxmemory {memory_mb}mb", *BOUNDS)
    return "".join(f"{line}\n" for line in every)
