"""A client whose environment breaks goes on by itself, and says so to the server."""

import os

from soulsai.config import schema
from soulsai.types import EnvironmentOffer, Episode, Heartbeat
from tests.system.client_cases import Node, Place, playing, until

SICK = "tests.system.sick_env:Sick"
LIMITS = schema.WatchdogSettings(step_seconds=1.0, reset_seconds=2.0)


def test_a_client_plays_on_after_crashes_and_every_env_step_is_accounted_for():
    place = Place()
    node = Node(place, SICK, fragment_steps=16, kwargs={"fault": "segfault", "after": 70})
    own = schema.EnvironmentSettings(isolate=True)
    with playing(place, listed=(SICK,), environment_config=own, watchdog=LIMITS):
        until(lambda: node.listen() > 150)
        until(lambda: node.listen() and node.of(Heartbeat)[-1].faults.get("crash", 0) >= 2)
    node.listen()
    last = node.of(Heartbeat)[-1]
    assert last.restarts >= 2
    assert "step: its process was killed by SIGSEGV" in last.trouble
    assert node.rejected == []
    assert node.listen() + last.dropped == last.steps
    clock = 0
    for one in node.fragments():
        assert one.clock == clock  # the node sees no hole
        clock += len(one)
    assert node.of(Episode)


def test_a_game_in_real_time_is_isolated_without_being_asked(tmp_path):
    place, log = Place(), tmp_path / "lives"
    offer = EnvironmentOffer(SICK, {"log": str(log)}, realtime=True)
    node = Node(place, offer=offer)
    mine = schema.EnvironmentSettings(kwargs={"log": str(log)})
    with playing(place, listed=(SICK,), environment_config=mine):
        until(lambda: node.listen() > 100)
    lives = [int(pid) for pid in log.read_text().split()]
    assert len(lives) == 2
    assert lives[0] == os.getpid()  # the probe of the node
    assert lives[1] != os.getpid()
