"""Environments of the old Gym: which line says how to play them.

That they are played is seen in ``tests/environments``, where shimmy and gym can be installed.
"""

import sys
from types import SimpleNamespace

import pytest

from soulsai.client.creation import make
from soulsai.errors import EnvironmentFault


class Old:
    """Follows the old API, and inherits from nothing of Gymnasium."""

    def reset(self):
        return 0

    def step(self, action):
        return 0, 0.0, False, {}


class Nothing:
    """Is no environment of any kind."""


HERE = __name__


def test_the_packages_that_it_needs_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gym", None)  # as if it were not installed
    with pytest.raises(EnvironmentFault) as raised:
        make("gym:CartPole-v1", {})
    assert 'need shimmy and gym; pip install "shimmy[gym-v26]"' in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_class_of_the_old_api_is_answered_with_the_id_to_write():
    with pytest.raises(EnvironmentFault, match=rf"follows the old Gym, .*id: gym:{HERE}:Old$"):
        make(f"{HERE}:Old", {})
    with pytest.raises(EnvironmentFault) as raised:
        make(f"{HERE}:Nothing", {})
    assert "old Gym" not in str(raised.value)


def test_an_id_that_gym_registers_is_answered_with_the_id_to_write(monkeypatch):
    registration = SimpleNamespace(registry={"Sokoban-v0": object()})
    monkeypatch.setitem(sys.modules, "gym.envs.registration", registration)
    with pytest.raises(EnvironmentFault, match=rf"environment\.id: gym:{HERE}:Sokoban-v0$"):
        make(f"{HERE}:Sokoban-v0", {})
    with pytest.raises(EnvironmentFault) as raised:
        make(f"{HERE}:Other-v0", {})
    assert "environment.id: gym:" not in str(raised.value)
