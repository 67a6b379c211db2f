"""Several isolated environments of one client, which step and reset at the same time."""

import random
import socket
import threading

import numpy as np
import psutil
import pytest

from soulsai.client.actor import Actor
from soulsai.client.isolation.environment import IsolatedEnvironment, start
from soulsai.client.player_link import Instructions
from soulsai.client.probe import probe
from soulsai.config.schema import EnvironmentSettings, WatchdogSettings
from soulsai.testing.policy import linear_program
from soulsai.types import EnvironmentOffer, Head, Pointer, Weights
from tests.unit.client.player_cases import stage

COUNT = 3
DIARY = "tests.unit.client.player_cases:Diary"
MEETING = "tests.system.meeting_env:Meeting"


@pytest.fixture
def isolated():
    """Return a function that starts environments in processes; all are ended."""
    made = []

    def make(id, kwargs):
        spec = probe(EnvironmentSettings(id=DIARY))
        for _ in range(COUNT):
            one = IsolatedEnvironment(
                id,
                EnvironmentOffer(id, kwargs),
                spec,
                WatchdogSettings(step_seconds=20.0, reset_seconds=20.0, rest_seconds=1.0),
                stopped=lambda: False,
                rng=random.Random(1),
            )
            made.append(one)
            start(one, lambda: False)
        return made

    yield make
    for one in made:
        one.close(grace=0.0)


class Gate:
    """Answers the environments; ``judge`` gets all that wait, and returns those that may go on."""

    def __init__(self, judge):
        self.judge, self.waiting, self.over = judge, [], False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while not self.over:
            connection, _ = self.listener.accept()
            self.waiting.append((connection.recv(1), connection))
            for one in self.judge(self.waiting):
                self.waiting.remove(one)
                one[1].sendall(b".")
                one[1].close()

    def close(self):
        self.over = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join()
        for _, connection in self.waiting:
            connection.close()
        self.listener.close()


@pytest.fixture
def gate():
    made = []

    def make(judge):
        made.append(Gate(judge))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_all_take_their_steps_at_the_same_time(isolated, gate):
    def all_or_resets(waiting):
        resets = [one for one in waiting if one[0] == b"r"]
        return resets or (waiting[:] if len(waiting) == COUNT else [])

    port = gate(all_or_resets).port
    _, line, go, progress = stage(isolated(MEETING, {"port": port, "length": 1000}))
    go(8 * COUNT)
    assert progress.steps == 8 * COUNT
    assert sum(map(len, line.fragments)) == 8 * COUNT


def test_one_that_resets_does_not_hold_up_the_others(isolated, gate):
    steps, held = [0], []

    def hold_a_reset(waiting):
        steps[0] += sum(what == b"s" for what, _ in waiting)
        for one in waiting:
            if one[0] == b"r" and steps[0] >= 4 and not held:
                held.append(one)
        return [one for one in waiting if one not in held or steps[0] >= 40]

    port = gate(hold_a_reset).port
    _, line, go, progress = stage(isolated(MEETING, {"port": port}))
    go(60)
    assert held
    assert progress.steps >= 60
    assert {len(one) for one in line.fragments if one.ended} == {4}


def test_every_step_is_recorded_with_the_version_that_chose_it(isolated):
    environments = isolated(DIARY, {"length": 7})
    player, line, _, progress = stage(environments, epsilon_base=1e-9, quota=5)
    head = Head("epsilon_greedy", eval_fraction=0.0, epsilon_base=1e-9)
    program, arrays = linear_program(line.run.spec, head)
    actors = [line.instructions.actor]
    rng = np.random.default_rng(1)

    def publish():
        """Publish another policy whenever the quota is spent, or in between."""
        version = len(actors) + 1
        values = {n: rng.normal(size=a.shape).astype(a.dtype) for n, a in arrays.items()}
        weights = Weights(run="r", generation=1, version=version, arrays=values)
        actors.append(Actor.load(program, weights, line.run.spec))
        pointer = Pointer("r", 1, version, 0, "", quota=int(rng.integers(1, 9)))
        line.instructions = Instructions(pointer, actors[-1])

    def stopped():
        if progress.waiting or rng.random() < 0.1:
            publish()
        if progress.steps > 60 and not killed:
            killed.append(environments[1].pid)
            psutil.Process(environments[1].pid).kill()
        return progress.steps >= 300

    killed = []
    player.run(stopped)
    assert progress.restarts == 1
    assert len({one.version for one in line.fragments}) > 10
    for one in line.fragments:
        np.testing.assert_array_equal(
            one.obs["obs"][:, 2], np.arange(one.start, one.start + len(one) + 1)
        )
        outputs, _ = actors[one.version - 1]({"obs": one.obs["obs"][:-1]}, {})
        np.testing.assert_array_equal(one.action, outputs["q"].argmax(-1))
    lost = progress.discarded
    assert sum(map(len, line.fragments)) + lost == progress.steps


def test_an_answer_that_nobody_took_is_not_that_of_the_next_request(isolated):
    environment = isolated(DIARY, {"length": 7})[0]
    rows = {"obs": np.zeros(3, "f4")}
    environment.reset(rows)
    environment.request_step(np.uint8(1))
    environment.reset(rows)
    assert rows["obs"].tolist() == [0, 1, 0]
    assert environment.step(np.uint8(0), rows).reward == 0.5
