"""The page of the examples that plays and trains through ``soulsai bridge``, in a browser."""

import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from soulsai import runs
from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.bridge_cases import EXAMPLES, ID, Bridge
from tests.system.client_cases import Node, Place, until
from tests.system.train_cases import Training

TRAINED, SOLVED = 50_000, 475.0  # env steps of the page, and its return after them
LATE = 2_000  # env steps that may arrive after the end of a run


class Pages(http.server.SimpleHTTPRequestHandler):
    """Serves the examples, and keeps quiet."""

    def log_message(self, *_):
        pass


@contextmanager
def served():
    """Serve the page of the examples on a port of this machine."""
    handler = functools.partial(Pages, directory=str(EXAMPLES))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/index.html"
        finally:
            server.shutdown()
            thread.join()


def test_a_page_plays(visit, tmp_path):
    with EmbeddedServer() as server, served() as page:
        node = Node(Place(server), ID)
        bridge = Bridge(server, tmp_path, "game", "--env", ID)
        try:
            with visit(f"{page}?port={bridge.port}"):
                until(lambda: node.listen() >= 0 and len(node.fragments("game")) > 20)
        finally:
            assert bridge.end() == 0
            node.wire.close()
    assert node.rejected == []


@pytest.mark.timeout(1200)
def test_a_page_trains(visit, tmp_path):
    words = ["--env", ID, "--max-env-steps", str(TRAINED), "--clients", "0", "--seed", "1"]
    quiet = ("--set=web.enabled=false", "--set=evaluate.every=0")
    with Training(tmp_path, *words, *quiet) as training, served() as page:
        training.until("the training node waits", lambda status: status is not None)
        bridge = Bridge(runs.running(training.saves), tmp_path, "page", "--env", ID)
        try:
            with visit(f"{page}?port={bridge.port}") as opened:
                code, summary = training.end()
                opened.wait_for_function("said.textContent.startsWith('no bridge')")
                said = opened.text_content("#said")
        finally:
            assert bridge.end() == 0
        folder = training.run_folder()
    assert code == 0
    assert "Traceback" not in bridge.said

    taken = int(re.search(r"(\d+) steps", said)[1])
    played = int(re.findall(r"played env_steps=(\d+)", bridge.said)[-1])
    assert played <= taken <= played + 1, "the last step has no answer"
    (row,) = json.loads((folder / "status.json").read_text())["clients"]
    assert (row["lost"], row["dropped"], row["rejected"]) == (0, 0, 0)
    assert TRAINED <= row["admitted"] == summary["env_steps"] <= played <= row["admitted"] + LATE

    lines = (folder / "results.jsonl").read_text().splitlines()
    returns = np.array([json.loads(line)["reward"] for line in lines])
    fifths = [part.mean() for part in np.array_split(returns, 5)]
    assert fifths[-1] > 5 * fifths[0], fifths
    words = [sys.executable, "-m", "soulsai", "evaluate", "latest", "--episodes", "100", "--json"]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    score = json.loads(told.splitlines()[-1])
    rise = ", ".join(f"{mean:.0f}" for mean in fifths)
    print(f"{taken} steps of the page, {row['admitted']} admitted, none lost: {score['iqm']:.1f}")
    print(f"mean returns of each fifth of the episodes: {rise}; {summary['wall_seconds']:.0f} s")
    assert score["iqm"] >= SOLVED
