"""``soulsai bridge`` with the game in C of the examples."""

import itertools
import subprocess

import numpy as np
import pytest

from soulsai.types import Episode
from soulsai.wire.redis.embedded_server import EmbeddedServer
from tests.system.bridge_cases import EXAMPLES, ID, Bridge
from tests.system.client_cases import Node, Place, until

STEPS = 3_000


@pytest.fixture(scope="module")
def node():
    with EmbeddedServer() as server:
        node = Node(Place(server), ID)
        yield server, node
        node.wire.close()


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
