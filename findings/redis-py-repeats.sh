#!/usr/bin/env bash
# redis-py 8.1.0: one INCR whose answer is late is sent eleven times.
#
# Expected: a command that is not idempotent is sent once; after a time-out its caller decides.
# Happens:  the client's default retry repeats it ten times, also after a read time-out, when the
#           server may have carried it out already. A counter then counts one call up to eleven
#           times, and an XADD leaves up to eleven entries.
# Version:  redis 8.1.0 from PyPI, Python 3.11
# Date:     2026-11-30
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet redis==8.1.0
timeout 120 "$folder/venv/bin/python" - <<'PYTHON'
import socket
import sys
import threading

import redis

received = []


def serve(listener):
    """Read commands on every connection, answer all of them but INCR."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(connection,)).start()


def answer(connection):
    with connection:
        while data := connection.recv(65536):
            received.append(data)
            count = data.count(b"*")
            if b"INCR" not in data:
                connection.sendall(b"+OK\r\n" * count)


listener = socket.create_server(("127.0.0.1", 0))
thread = threading.Thread(target=serve, args=(listener,))
thread.start()
client = redis.Redis(port=listener.getsockname()[1], socket_timeout=0.1, protocol=2)
try:
    client.incr("steps")
except redis.TimeoutError as error:
    print(f"redis {redis.__version__}: incr() raised {type(error).__name__}: {error}")
client.close()
listener.shutdown(socket.SHUT_RDWR)
listener.close()
thread.join()
times = sum(data.count(b"INCR") for data in received)
print(f"one incr() was sent {times} times")
sys.exit(0 if times == 11 else f"expected 11 times, as of redis-py 8.1.0")
PYTHON
