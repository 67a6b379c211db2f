"""Values that each client has for itself: what it plays with, what is recorded, and ports."""

import json
import os

import pytest

from soulsai.config import schema
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.types import EnvironmentOffer, Episode, Heartbeat
from tests.system.client_cases import Client, Node, Place, playing, until
from tests.system.train_cases import SMALL, Training, soulsai

# A game that listens on one port, as many do; two at once on a machine need two.
GAME = """
import socket
from soulsai.testing import ToyEnv

class Game(ToyEnv):
    def __init__(self, host, port, speed):
        super().__init__()
        self.line = socket.create_server((host, port), reuse_port=False)
        self.speed = speed

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, info | {"speed": self.speed}

    def close(self):
        self.line.close()

def make(port, host, worker=0, speed=3.0):
    return Game(host, port + worker, speed)
"""
# No other test listens on this address of the machine's own 127.0.0.0/8.
HOST = f"127.77.{os.getpid() % 250}.{1 + os.getpid() // 250 % 250}"
OWN = {"kwargs": {"speed": 1.5}, "max_episode_steps": 9}


@pytest.fixture
def game(tmp_path):
    file = tmp_path / "game.py"
    file.write_text(GAME)
    return f"{file}:make"


def offered(id, **more):
    kwargs = {"host": HOST, "port": 15005, "worker": "{index}"}
    return EnvironmentOffer(
        id, kwargs, ("speed", "max_episode_steps"), count=3, info_keys=("speed",), **more
    )


@pytest.mark.parametrize("isolate", [True, False])
def test_each_environment_has_a_port_and_a_client_its_own_values(game, isolate):
    place = Place()
    node = Node(place, offer=offered(game))
    options = {
        "listed": (game,),
        "environment_config": schema.EnvironmentSettings(isolate=isolate),
    }
    with (
        playing(place, "one", own=OWN, **options),
        playing(place, "two", own={"number": 2}, **options),
    ):
        longest = {"one": 9, "two": 10}
        until(
            lambda: (
                node.listen()
                and {e.client for e in node.of(Episode) if e.steps >= longest[e.client]}
                == set(longest)
            )
        )
        until(
            lambda: (
                node.listen() and {beat.kwargs.get("speed") for beat in node.of(Heartbeat)} > {1.5}
            )
        )
    node.listen()
    assert node.rejected == []
    episodes = {name: [e for e in node.of(Episode) if e.client == name] for name in ("one", "two")}
    assert {e.info["speed"] for e in episodes["one"]} == {1.5}
    assert {e.info["speed"] for e in episodes["two"]} == {3.0}
    assert max(e.steps for e in episodes["one"]) == 9 < max(e.steps for e in episodes["two"])
    assert all(e.kwargs == {"speed": 1.5, "max_episode_steps": 9} for e in episodes["one"])
    assert all(e.kwargs == {"max_episode_steps": 0} for e in episodes["two"])


def test_two_clients_of_one_number_fight_for_a_port_and_the_second_says_so(game):
    place = Place()
    Node(place, offer=offered(game))
    with playing(place, "one", listed=(game,)):
        until(lambda: place.training().clients() == ["one"])
        second = Client(place, "two", listed=(game,)).start()
        until(lambda: not second.alive)
    second.stop()
    with pytest.raises(EnvironmentFault, match="Address already in use"):
        raise second.error


def test_a_value_that_the_run_does_not_list_ends_the_client_in_a_line(game):
    place = Place()
    Node(place, offer=offered(game))
    client = Client(place, listed=(game,), own={"kwargs": {"port": 1}}).start()
    until(lambda: not client.alive)
    client.stop()
    with pytest.raises(ConfigError, match=r"client\.kwargs\.port: the run lets clients set speed"):
        raise client.error


def test_train_numbers_its_clients_and_evaluate_plays_beside_them(game, tmp_path):
    own = tmp_path / "own.yaml"
    kwargs = offered(game).kwargs
    own.write_text(
        json.dumps(
            {
                "environment": {
                    "id": game,
                    "kwargs": kwargs,
                    "client_kwargs": ["speed"],
                    "count": 2,
                },
                "client": {"kwargs": {"speed": 1.5}},
                "run": {"max_env_steps": 0},
                "checkpoint": {"every": 20, "keep": 1000},
            }
        )
    )
    words = (str(own), *SMALL[:-2], "--set", "web.enabled=false")
    with Training(tmp_path, *words) as training:
        training.until("two clients", lambda s: len(s.clients) == 2 and s.env_steps > 1500)
        status = training.until("a checkpoint", lambda s: s.checkpoint)
        done = soulsai("evaluate", "latest", "--episodes", "9", "--json", cwd=tmp_path)
        said = soulsai("status", "--set", f"run.saves={tmp_path / 'saves'}", cwd=tmp_path)
        training.end(2)
    assert done.returncode == 0, done.stderr
    assert "side by side" not in done.stderr
    assert json.loads(done.stdout)["episodes"] == 9
    assert [client.kwargs for client in status.clients] == [{"speed": 1.5}] * 2
    assert said.stdout.count("speed=1.5") == 2, said
    lines = (training.run_folder() / "results.jsonl").read_text().splitlines()
    assert {json.dumps(json.loads(line)["kwargs"]) for line in lines} == {'{"speed": 1.5}'}


def test_train_refuses_a_value_that_it_does_not_list_before_it_starts(tmp_path):
    done = soulsai("train", "--set", "client.kwargs.gravity=-5", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "soulsai: client.kwargs.gravity: the run lets clients set nothing"
    )
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
