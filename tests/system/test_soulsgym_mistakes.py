"""A SoulsGym that does not fit: one line, no exit of 0, and what was played stays admitted."""

import importlib
import sys
from pathlib import Path

import gymnasium
import msgspec
import pytest

from soulsai.client.games import soulsgym
from soulsai.config import schema
from soulsai.errors import EnvironmentFault
from soulsai.types import EnvironmentOffer, Heartbeat
from tests.system.client_cases import Client, Node, Place, playing, until
from tests.system.train_cases import complaint
from tests.system.train_cases import soulsai as command

ID = "soulsgym:SoulsGymIudex-v0"
# The stand-in in SoulsGym's place, with a version and a fault that tests choose.
PACKAGE = """
import gymnasium
from gymnasium import spaces
from soulsai.testing.iudex import Iudex

ANIMATIONS, MASK_FROM, STARTS = 50, float("inf"), True

class Game(Iudex):
    def __init__(self, game_speed=1.0, faulty=False):
        if not STARTS:
            raise RuntimeError("Could not find process: DarkSoulsIII.exe")
        super().__init__()
        self.faulty, self.steps = faulty, 0
        table = spaces.Discrete(ANIMATIONS + 1, start=-1)
        self.observation_space = spaces.Dict({**self.observation_space, "player_animation": table})

    def _info(self):
        self.steps += 1
        wrong = self.faulty and self.steps % 400 > MASK_FROM
        return {"allowed_actions": [20] if wrong else super()._info()["action_mask"].nonzero()[0]}

gymnasium.register("SoulsGymIudex-v0", entry_point="soulsgym:Game", max_episode_steps=3000)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "soulsgym").mkdir()
    (tmp_path / "soulsgym/__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module("soulsgym")
    for name in [name for name in sys.modules if name.split(".")[0] == "soulsgym"]:
        del sys.modules[name]
    gymnasium.registry.pop("SoulsGymIudex-v0")


def refused(place, match, **options):
    client = Client(place, listed=(ID,), **options).start()
    until(lambda: not client.alive)
    client.stop()
    with pytest.raises(EnvironmentFault, match=match):
        raise client.error
    assert client.error.exit_code != 0
    assert "\n" not in str(client.error)


@pytest.mark.parametrize("isolate", [True, False])
def test_another_version_is_refused_with_the_difference(package, monkeypatch, isolate):
    place = Place()
    Node(place, offer=EnvironmentOffer(ID))
    monkeypatch.setattr(package, "ANIMATIONS", 60)
    if isolate:  # the process of the environment imports the package by itself
        Path(package.__file__).write_text(PACKAGE.replace("STARTS = 50", "STARTS = 60"))
    config = schema.EnvironmentSettings(isolate=isolate)
    refused(place, r"'obs' is float32\[126\] here and float32\[116\]", environment_config=config)


def test_an_argument_of_another_version_is_refused_by_name(package):
    del package
    place = Place()
    offer = EnvironmentOffer(ID)
    node = Node(place, offer=offer, publish=False)
    newer = EnvironmentOffer(ID, {"skip_steps": True})
    node.run = msgspec.structs.replace(node.run, environment=newer)
    node.open()
    refused(place, r"environment\.kwargs\.skip_steps: .* has no such argument in this version")


def test_a_missing_game_is_told_and_the_client_of_another_pc_plays_on(package, monkeypatch):
    place = Place()
    node = Node(place, offer=EnvironmentOffer(ID))
    with playing(place, "other", listed=(ID,)):
        until(lambda: node.listen() > 100)
        monkeypatch.setattr(package, "STARTS", False)
        refused(place, r"cannot be made: SoulsGym needs Windows and the game; this is linux")
        before = node.listen()
        until(lambda: node.listen() > before + 100)
    assert node.rejected == []


def test_a_window_of_another_size_is_refused_before_the_fight(package, monkeypatch):
    del package
    place = Place()
    Node(place, offer=EnvironmentOffer(ID))
    monkeypatch.setattr(soulsgym, "_window_size", lambda: (1920, 1080))
    refused(place, r"the game's window is 1920 x 1080 pixels; set it to 800 x 450, windowed")


def test_a_mask_of_the_wrong_kind_from_the_first_step_on_ends_the_client(package, monkeypatch):
    place = Place()
    Node(place, offer=EnvironmentOffer(ID, {"faulty": True}))
    monkeypatch.setattr(package, "MASK_FROM", 0)
    refused(place, r"info\['allowed_actions'\] is \[20\]; actions are 0 to 19; check the version")


def test_a_mask_of_the_wrong_kind_later_on_costs_an_episode_and_nothing_else(package, monkeypatch):
    place = Place()
    node = Node(place, offer=EnvironmentOffer(ID, {"faulty": True}, count=2))
    monkeypatch.setattr(package, "MASK_FROM", 300)
    with playing(place, listed=(ID,)):
        until(lambda: node.listen() > 2000)
        until(lambda: node.listen() and node.of(Heartbeat)[-1].faults.get("crash", 0) >= 2)
    node.listen()
    last = node.of(Heartbeat)[-1]
    assert "info['allowed_actions'] is [20]; actions are 0 to 19" in last.trouble
    assert node.rejected == []
    assert node.listen() + last.dropped == last.steps


def test_without_the_package_a_command_ends_with_one_line(tmp_path):
    said = complaint(command("check-env", ID, cwd=tmp_path))
    assert said.startswith(f"soulsai: {ID}: cannot be imported: SoulsGym needs Windows")
