"""A client is small: it loads nothing that only servers need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.client_cases import Node, Place, until

ROOT = Path(__file__).parents[2]
MOST_MB = 110
HEAVY = [
    "torch",
    "onnx",
    "matplotlib",
    "rich",
    "pygame",
    "scipy",
    "starlette",
    "onnxscript",
    "psutil",
]

CLIENT = f"""
import json, sys, time
import soulsai.client.session as session
loaded = [name for name in {HEAVY} if name in sys.modules]
from soulsai.config.schema import ClientSettings, Config, RedisSettings
from soulsai.wire.redis.roles import connect_client
from soulsai.wire.secrets import server_for

settings = Config(
    redis=RedisSettings(url=sys.argv[1], secrets=sys.argv[2]), client=ClientSettings(name="one")
)
wire = connect_client(server_for("client", settings.redis), "soulsai", "one")
deadline = time.monotonic() + 4
session.serve(settings, wire, seed=1, stopped=lambda: time.monotonic() > deadline)
with open("/proc/self/status") as status:
    peak = next(line for line in status if line.startswith("VmHWM"))
print(json.dumps({{"loaded": loaded, "mb": int(peak.split()[1]) * 1024 / 1e6}}))
"""


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # of Box2D, which crashes
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_client_of_lunar_lander_stays_small():
    with EmbeddedServer() as server:
        node = Node(Place(server), "LunarLander-v3")
        done = subprocess.Popen(
            [sys.executable, "-c", CLIENT, server.url, str(server.secrets)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for version in range(2, 10):
            until(lambda version=version: node.listen() > 500 * version or done.poll() is not None)
            node.publish(version)
        out, _ = done.communicate(timeout=60)
        node.wire.close()
    said = json.loads(out)
    assert said["loaded"] == []
    assert said["mb"] <= MOST_MB
