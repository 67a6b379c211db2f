"""An environment in the client's own process: faults, restarts, and mistakes."""

import random

import numpy as np
import pytest

from soulsai.client.environment import AdaptedEnvironment
from soulsai.client.in_process import InProcessEnvironment
from soulsai.client.isolation.watchdog import HEALTHY_STEPS, EnvironmentBroken
from soulsai.config.schema import WatchdogSettings
from soulsai.errors import EnvironmentFault
from soulsai.testing import ToyEnv
from soulsai.types import zeros


class Breakable(ToyEnv):
    """A ``ToyEnv`` that raises the errors of its class, one per call."""

    errors: list[BaseException]
    made = 0
    closed = 0

    def __init__(self):
        super().__init__()
        type(self).made += 1

    def step(self, action):
        if self.errors:
            raise self.errors.pop(0)
        return super().step(action)

    def close(self):
        type(self).closed += 1


@pytest.fixture
def kind():
    class Own(Breakable):
        errors: list[BaseException] = []

    return Own


@pytest.fixture
def played(kind):
    def adapted(stage=0):
        return AdaptedEnvironment(kind(), "it", mask_key="", masked=False)

    now = [0.0]
    environment = InProcessEnvironment(
        adapted,
        WatchdogSettings(),
        rng=random.Random(1),
        clock=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    rows = {name: zeros(leaf) for name, leaf in adapted().spec.obs.items()}
    kind.made = 1
    return environment, rows, now


def until_ready(environment):
    while not environment.ready(1.0):
        pass


def go(environment, rows, steps):
    environment.reset(rows, 1)
    for _ in range(steps):
        result = environment.step(1, rows)
        if result.terminated or result.truncated:
            environment.reset(rows)


@pytest.mark.parametrize("error", [RuntimeError("unstable"), SystemExit(), SystemExit(3)])
def test_a_fault_after_many_steps_is_counted_and_the_environment_is_made_again(played, kind, error):
    environment, rows, _ = played
    go(environment, rows, HEALTHY_STEPS)
    for number in range(1, 8):
        kind.errors.append(error)
        with pytest.raises(EnvironmentBroken) as caught:
            environment.step(1, rows)
        assert caught.value.fault.kind == "crash"
        assert f"step raised {type(error).__name__}" in caught.value.fault.text
        assert "/" not in caught.value.fault.text.partition(": ")[0]
        while not environment.ready(0.1):
            pass
        assert kind.made == kind.closed + 1 == number + 1
        environment.reset(rows)
    assert np.isfinite(rows["obs"]).all()


def test_ready_waits_for_the_pause_and_not_longer_than_it_may(played, kind):
    environment, rows, now = played
    go(environment, rows, HEALTHY_STEPS)
    kind.errors.append(RuntimeError())
    with pytest.raises(EnvironmentBroken):
        environment.step(1, rows)
    environment._remade._not_before = now[0] + 10
    assert not environment.ready(0.0)
    assert not environment.ready(4.0)
    assert now[0] == 4.0
    assert environment.ready(100.0)
    assert now[0] == 10.0


def test_an_environment_that_never_works_is_a_mistake(played, kind):
    environment, rows, _ = played
    for _ in range(2):
        environment.reset(rows)
        kind.errors.append(RuntimeError("wrong from the start"))
        with pytest.raises(EnvironmentBroken):
            environment.step(1, rows)
        while not environment.ready(1.0):
            pass
    environment.reset(rows)
    kind.errors.append(RuntimeError("wrong from the start"))
    with pytest.raises(EnvironmentFault, match="wrong from the start") as caught:
        environment.step(1, rows)
    assert not isinstance(caught.value, EnvironmentBroken)


def test_an_environment_that_cannot_be_made_again_is_tried_later(played, kind, monkeypatch):
    environment, rows, _ = played
    go(environment, rows, HEALTHY_STEPS)
    kind.errors.append(RuntimeError())
    with pytest.raises(EnvironmentBroken):
        environment.step(1, rows)
    make = environment._remade._make
    monkeypatch.setattr(environment._remade, "_make", _refuse)
    with pytest.raises(EnvironmentBroken, match="no licence"):
        until_ready(environment)
    monkeypatch.setattr(environment._remade, "_make", make)
    while not environment.ready(1.0):
        pass
    environment.reset(rows)


def _refuse():
    raise EnvironmentFault("no licence")
