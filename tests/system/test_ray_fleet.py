"""Clients that Ray places: they learn with the others, and one whose process dies is back."""

import os
import signal
import threading

import pytest

from soulsai import runs
from soulsai.config import load
from soulsai.errors import SoulsAIError
from tests.system.train_cases import CARTPOLE, Training, complaint, soulsai, until

pytestmark = pytest.mark.ray

CLIENTS = 3


def test_an_actor_whose_process_dies_is_back(tmp_path):
    import ray

    from soulsai.launch.ray_fleet import Fleet, connected

    words = ("--clients", "0", "--seed", "1", "--max-env-steps", "0", *CARTPOLE)
    with Training(tmp_path, *words) as training, connected(cpus=CLIENTS):
        training.until("a training node", lambda status: True)
        place = runs.running(training.saves)
        settings = load(None, {}, [f"redis.url={place.url}", f"redis.secrets={place.secrets}"])
        fleet = Fleet(settings, CLIENTS, environment="CartPole-v1")
        over = threading.Event()
        thread = threading.Thread(target=fleet.run, args=(over.is_set,))
        thread.start()
        try:
            training.until("all play", lambda status: playing(status) == names(CLIENTS))
            first = ray.get(fleet.actors[0].process.remote())
            os.kill(first, signal.SIGKILL)
            until("the fleet noticed", lambda: fleet.restarts)
            before = training.status().env_steps
            training.until("all play again", lambda status: fresh(status, before))
            second = ray.get(fleet.actors[0].process.remote())
        finally:
            over.set()
            thread.join()
        assert second != first
        assert fleet.restarts  # asked for again until Ray has put it up again
        status = training.until("all said goodbye", lambda status: not playing(status))
        assert status.duplicates == 0
        assert not status.rejected


def test_a_cluster_that_is_not_there_is_said_so(tmp_path):
    words = ("ray-clients", "--address", "127.0.0.1:1", "--redis", "redis://127.0.0.1:1")
    assert "no Ray cluster answers" in complaint(soulsai(*words, cwd=tmp_path))


def test_a_cluster_that_does_not_start_is_said_in_a_line(monkeypatch):
    import ray

    from soulsai.launch.ray_fleet import connected

    def start(**kwargs):
        raise Exception("The current node timed out during startup.\nMore")

    monkeypatch.setattr(ray, "init", start)
    with (
        pytest.raises(SoulsAIError, match=r"does not start.*timed out during startup\.$"),
        connected(),
    ):
        pass


def test_what_would_fail_again_ends_the_fleet(tmp_path):
    from soulsai.launch.ray_fleet import Fleet, connected

    with connected(cpus=1), pytest.raises(SoulsAIError, match=r"redis\.url"):
        Fleet(load(None, {}, []), 1).run(lambda: False)


def names(count):
    return {f"ray-{number}" for number in range(1, count + 1)}


def playing(status):
    return {client.client for client in status.clients if client.state in ("active", "waiting")}


def fresh(status, before):
    return playing(status) == names(CLIENTS) and status.env_steps > before + 500
