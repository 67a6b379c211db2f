"""The telemetry node killed and away for a while: nothing is lost, and the page goes on by itself.

``OUTAGE_SECONDS=60 make test-web ARGS=tests/web/test_outage.py`` has it away for a minute.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from soulsai.config.schema import RedisSettings
from soulsai.wire.redis.embedded_server import EmbeddedServer
from soulsai.wire.redis.roles import connect_training
from soulsai.wire.secrets import server_for
from tests.contract.web_cases import LIVE, Browser, Trainer, episode, status, until

ROOT = Path(__file__).parents[2]
AWAY = float(os.environ.get("OUTAGE_SECONDS", "5"))
PER_SECOND = 20  # episodes of a fleet that is fast


class Server:
    """What a ``Trainer`` wants to know of a server: its training node's wire."""

    def __init__(self, server):
        self._redis = RedisSettings(url=server.url, secrets=str(server.secrets))

    def training(self):
        return connect_training(server_for("training_node", self._redis), "soulsai")


class Node:
    """A telemetry node as a process that can be killed."""

    def __init__(self, folder, server, port):
        words = ("--redis", server.url, "--secrets", str(server.secrets))
        sets = (f"web.port={port}", "telemetry.window=10", f"run.saves={folder / 'saves'}")
        self._words = [*words, *(word for one in sets for word in ("--set", one))]
        self._folder = folder
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "soulsai", "telemetry-node", *self._words],
            cwd=self._folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self):
        self.process.kill()
        self.process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.timeout(600)
def test_nothing_is_lost_while_it_is_away(tmp_path, opened):
    folder = tmp_path / "saves" / LIVE
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    results, best = folder / "results.jsonl", folder / "best.json"
    port, over, rng = free_port(), threading.Event(), random.Random(0)
    url = f"http://127.0.0.1:{port}"
    with EmbeddedServer() as server:
        trainer = Trainer(Server(server), status=status())
        count = [0]

        def work():
            report = 0.0
            while not over.wait(1 / PER_SECOND):
                trainer.play(episode(count[0], 4000, rng))
                count[0] += 1
                report = trainer.turn(report)

        player = threading.Thread(target=work)
        player.start()
        node = Node(tmp_path, server, port)
        try:
            until(lambda: results.exists() and recorded(results) > 40, 90)
            until(lambda: answers(url), 90)
            page = opened(url, patient=True)
            page.evaluate("window.same = true")
            page.locator(".chart.large canvas").wait_for()
            until(best.exists, 60)
            before = json.loads(best.read_text())
            node.kill()
            left = recorded(results)
            time.sleep(AWAY)  # what is tested is that so much time passes
            missed = count[0] - left
            assert missed >= AWAY * PER_SECOND / 4
            node.start()
            until(lambda: recorded(results) > left + missed, 120)
            over.set()
            player.join()
            until(lambda: recorded(results) == count[0], 60)
            page.get_by_text(f"{count[0]:,} episodes").first.wait_for()
            assert page.evaluate("window.same"), "the page was loaded anew"
            node.process.send_signal(signal.SIGTERM)
            assert node.process.wait(60) == 0
        finally:
            over.set()
            player.join()
            node.kill()
            trainer.wire.close()
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["episode"] for line in lines] == list(range(count[0]))
    assert not any(line.get("gap") for line in lines)
    after = json.loads(best.read_text())
    # An average of greedy episodes counts for more than any other.
    assert (after["greedy"], after["score"]) >= (before["greedy"], before["score"])
    print(f"away for {AWAY:g} s, missed {missed} of {count[0]} episodes, lost 0")


def recorded(results):
    return results.read_bytes().count(b"\n")


def answers(url):
    try:
        return Browser(url).get("/api/v1/status")["live"]
    except OSError:
        return False
