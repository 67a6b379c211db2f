"""``soulsai status --watch``: the same truth as the page's, for people on a terminal."""

import json
import subprocess
import sys

import msgspec

from soulsai.config.schema import RedisSettings
from soulsai.types import Status
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_training
from soulsai.wire.secrets import server_for
from tests.system.telemetry_cases import PROGRAM, beside, run_spec
from tests.system.train_cases import PATIENCE, complaint, environ, soulsai, until

STATUS = Status(
    "a-run", 1, "learning", "dqn", "Toy-v0", env_steps=1234, max_env_steps=2000, reward_mean=5.5
)


def test_it_watches_until_the_run_has_ended(tmp_path):
    with EmbeddedServer() as server:
        place = ("--redis", server.url, "--secrets", str(server.secrets))
        assert "no training node is alive" in complaint(soulsai("status", *place, cwd=tmp_path))
        training = connect_training(
            server_for("training_node", RedisSettings(url=server.url, secrets=str(server.secrets))),
            "soulsai",
        )
        training.open(run_spec("a-run"), PROGRAM, fresh=True)
        now = [STATUS]
        with beside(lambda: training.report(now[0])):
            until("a status", lambda: soulsai("status", *place, cwd=tmp_path).returncode == 0)
            shown = soulsai("status", *place, cwd=tmp_path).stdout
            assert "1,234 of 2,000" in shown
            assert "Ctrl-C" not in shown
            lines = tmp_path / "lines"
            with lines.open("w") as out:
                watching = subprocess.Popen(
                    [*(sys.executable, "-m", "soulsai", "status", *place),
                     *("--watch", "--every", "0.1", "--json")],
                    stdout=out, env=environ(), cwd=tmp_path,
                )  # fmt: skip
            until("lines", lambda: len(lines.read_text().splitlines()) >= 2)
            now[0] = msgspec.structs.replace(STATUS, phase="ended", env_steps=2000)
            assert watching.wait(PATIENCE) == 0
        training.close()
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert told[0]["env_steps"] == 1234
    assert told[-1]["phase"] == "ended"
