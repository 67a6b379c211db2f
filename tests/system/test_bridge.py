"""``soulsai bridge`` with the game in C of the examples, and with a page in a browser."""

import functools
import http.server
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from soulsai import runs
from soulsai.types import Episode
from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.client_cases import Node, Place, until
from tests.system.train_cases import Training

EXAMPLES = Path(__file__).parents[2] / "examples" / "bridge"
STEPS = 3_000
TRAINED, SOLVED = 50_000, 475.0  # env steps of the page that trains, and its return after them
ID = "CartPole-v1"


@pytest.fixture(scope="module")
def node():
    with EmbeddedServer() as server:
        node = Node(Place(server), ID)
        yield server, node
        node.wire.close()


class Bridge:
    """The command, in a process."""

    def __init__(self, server, folder, name, *words):
        self.log = folder / "bridge.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "soulsai", "bridge", "--redis", server.url, "--port"),
                    *("0", "--secrets", str(server.secrets), "--name", name, *words),
                ],
                stdout=log, stderr=subprocess.STDOUT, cwd=folder,
            )  # fmt: skip

    @property
    def said(self):
        return self.log.read_text()

    @property
    def port(self):
        until(lambda: "bridge 127.0.0.1:" in self.said or self.process.poll() is not None)
        return re.search(r"bridge 127\.0\.0\.1:(\d+)", self.said)[1]

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def bridge(node, tmp_path):
    server, _ = node
    started = Bridge(server, tmp_path, "game", "--env", ID)
    yield started
    started.end()


def compiled(folder):
    """Return the game in C; what runs these tests has a C compiler."""
    program = folder / "cartpole"
    words = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program)]
    subprocess.run([*words, str(EXAMPLES / "cartpole.c"), "-lm"], check=True)
    return program


def test_a_game_in_c_plays(node, bridge, tmp_path):
    _, node = node
    before = len(node.messages)
    done = subprocess.run(
        [compiled(tmp_path), bridge.port, str(STEPS)], capture_output=True, text=True, timeout=120
    )
    assert f"{STEPS} steps" in done.stdout, done.stdout + done.stderr + bridge.said
    assert bridge.end() == 0
    assert "Traceback" not in bridge.said
    until(lambda: node.listen() >= STEPS - 1)
    fragments = [one for one in node.messages[before:] if hasattr(one, "action")]
    episodes = [one for one in node.messages[before:] if isinstance(one, Episode)]
    assert node.rejected == []
    # The last action was answered by hanging up.
    assert sum(map(len, fragments)) == STEPS - 1
    assert len(episodes) >= STEPS // 500
    for older, newer in itertools.pairwise(fragments):
        assert newer.clock == older.clock + len(older)
        if not older.ended:
            np.testing.assert_array_equal(newer.obs["obs"][0], older.obs["obs"][-1])
    for episode in episodes:
        assert episode.reward == episode.steps
    starts = np.abs([one.obs["obs"][0] for one in fragments if one.start == 0])
    assert starts.max() <= 0.05, "as the program draws them"


def test_a_run_of_another_environment_is_refused(node, tmp_path):
    server, _ = node
    bridge = Bridge(server, tmp_path, "other", "--env", "Acrobot-v1")
    assert bridge.process.wait(60) == 2
    assert f"the server requests the environment '{ID}'" in bridge.said.splitlines()[-1]


def test_a_port_in_use_is_told(node, bridge, tmp_path):
    folder = tmp_path / "second"
    folder.mkdir()
    second = Bridge(node[0], folder, "second", "--env", ID, "--port", bridge.port)
    assert second.process.wait(60) == 2
    assert f"--port: {bridge.port} cannot be used" in second.said


@contextmanager
def a_page_plays(port, folder):
    """The page of the examples in a browser, connected to a bridge."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(EXAMPLES))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages:
        threading.Thread(target=pages.serve_forever).start()
        url = f"http://127.0.0.1:{pages.server_port}/index.html?port={port}"
        browser = subprocess.Popen(
            [
                *(shutil.which("chromium"), "--headless=new", "--disable-gpu", "--no-sandbox"),
                *("--disable-extensions", f"--user-data-dir={folder / 'profile'}"),
                *("--remote-debugging-port=0", url),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            yield
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
            pages.shutdown()


@pytest.mark.web
def test_a_page_in_a_browser_plays(node, bridge, tmp_path):
    _, node = node
    node.listen()
    before = len(node.fragments("game"))
    with a_page_plays(bridge.port, tmp_path):
        until(lambda: node.listen() >= 0 and len(node.fragments("game")) > before + 20)
    assert node.rejected == []


@pytest.mark.web
@pytest.mark.timeout(1200)
def test_a_page_in_a_browser_trains(tmp_path):
    words = ["--env", ID, "--max-env-steps", str(TRAINED), "--clients", "0", "--seed", "1"]
    quiet = ("--set=web.enabled=false", "--set=evaluate.every=0")
    with Training(tmp_path, *words, *quiet) as training:
        training.until("the training node waits", lambda status: status is not None)
        bridge = Bridge(runs.running(training.saves), tmp_path, "page", "--env", ID)
        try:
            with a_page_plays(bridge.port, tmp_path):
                code, summary = training.end()
        finally:
            assert bridge.end() == 0
    assert code == 0
    assert summary["env_steps"] >= TRAINED
    assert "Traceback" not in bridge.said
    words = [sys.executable, "-m", "soulsai", "evaluate", "latest", "--episodes", "100", "--json"]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    score = json.loads(told.splitlines()[-1])
    print(f"{TRAINED} steps of the page: {score['iqm']:.1f}, {summary['wall_seconds']:.0f} s")
    assert score["iqm"] >= SOLVED
