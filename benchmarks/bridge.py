"""The bridge measured: steps per second of the game in C of the examples, over loopback.

Everything is as users have it: ``soulsai bridge`` in a process, the default policy of DQN, a real
server, and the compiled program. Only the training node is missing, so nobody is held up by it.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.default_policy import RUN, default_policy
from benchmarks.figure import Figure, at_least
from soulsai.client.probe import probe
from soulsai.config.schema import EnvironmentSettings, RedisSettings
from soulsai.errors import SoulsAIError
from soulsai.types import EnvironmentOffer, Weights
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_training
from soulsai.wire.secrets import server_for

ENVIRONMENT = "CartPole-v1"
GAME = Path(__file__).parents[1] / "examples" / "bridge" / "cartpole.c"
LEAST = 10_000.0  # steps per second


def measure(steps: int = 100_000) -> Iterator[Figure]:
    """Yield the steps per second that the game in C makes."""
    with EmbeddedServer() as server, tempfile.TemporaryDirectory() as folder:
        redis = RedisSettings(url=server.url, secrets=str(server.secrets))
        training = connect_training(server_for("training_node", redis), "soulsai")
        offer = EnvironmentOffer(ENVIRONMENT)
        spec, graph, first = default_policy(offer, probe(EnvironmentSettings(id=ENVIRONMENT)))
        generation = training.open(spec, graph, fresh=True)
        training.publish(Weights(RUN, generation, 1, first))
        rate = _rate(redis, Path(folder), steps)
        training.close()
    yield at_least("bridge: CartPole in C over loopback", rate, "steps/s", LEAST)


def _rate(redis: RedisSettings, folder: Path, steps: int) -> float:
    """Return the steps per second of the compiled game behind ``soulsai bridge``."""
    game = folder / "cartpole"
    subprocess.run(["cc", "-O2", "-o", str(game), str(GAME), "-lm"], check=True)
    words = ["bridge", "--redis", redis.url, "--secrets", redis.secrets, "--name", "game"]
    with subprocess.Popen(
        [sys.executable, "-m", "soulsai", *words, "--env", ENVIRONMENT, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as bridge:  # fmt: skip
        try:
            port = re.search(r":(\d+)$", bridge.stdout.readline() if bridge.stdout else "")
            if port is None:
                raise SoulsAIError("the bridge has not started")
            done = subprocess.run(
                [str(game), port[1], str(steps)], capture_output=True, text=True, check=True
            )
        finally:
            bridge.terminate()
    rate = re.search(rf"^{steps} steps, .* (\d+) steps/s$", done.stdout)
    if rate is None:
        raise SoulsAIError(f"the game has ended early: {done.stdout}")
    return float(rate[1])
