"""The released SoulsGym with everything but the game itself: its Windows parts are stubbed."""

import importlib
import logging
import sys
import types
from pathlib import Path

import gymnasium
import numpy as np
import pytest

RELEASED = Path(sys.prefix) / "soulsgym-1.1.0"  # put there by `make`, from the package index
STUBBED = {
    "pymem": {"logger": logging.getLogger("pymem"), "Pymem": "memory"},
    "pymem.exception": {"MemoryReadError": OSError},
    "cv2": {},
    "pixel_forge": {},
    "soulsgym.core.game_input": {"GameInput": "input"},
    "soulsgym.core.game_window": {"GameWindow": "window"},
    "soulsgym.core.memory_manipulator": {"MemoryManipulator": "memory"},
    "soulsgym.core.speedhack": {"SpeedHackConnector": "speed", "inject_dll": "dll"},
}


class Nothing:
    """Takes any call, as keyboard and window do."""

    focused = True

    def __init__(self, *_args, **_kwargs):
        pass

    def __getattr__(self, name):
        return lambda *_args, **_kwargs: None


class FakeGame:
    """Dark Souls III as SoulsGym reads and writes it, with the package's own data.

    It stands still but for its clock; tests move player and boss by hand.
    """

    is_ingame = True

    def __init__(self, static, state):
        self._state = state
        for name in (
            *("actions", "coordinates", "player_animations", "critical_player_animations"),
            *("boss_animations", "player_stats"),
        ):
            setattr(self, name, getattr(static, name)["DarkSoulsIII"])
        self.data = self
        self.clock = 0.0
        self.lock_on = True
        self.img = np.zeros((90, 160, 3), np.uint8)
        self.player_hp, self.player_max_hp = 454, 454
        self.player_sp, self.player_max_sp = 95, 95
        self.boss_hp, self.iudex_max_hp = 1037, 1037
        self.player_animation, self.boss_animation = "Idle", "IdleBattle"
        self.camera_pose = np.array([139.0, 575.0, -67.0, 0.0, 1.0, 0.0])
        self.player_pose = np.array(self.coordinates["iudex"]["post_fog_wall"])
        self.iudex_pose = np.array(self.coordinates["iudex"]["boss_init_pose"])

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: None

    @property
    def time(self):
        self.clock += 0.02
        return self.clock

    @time.setter
    def time(self, value):
        self.clock = value

    @property
    def iudex_hp(self):
        return self.boss_hp

    @property
    def iudex_animation(self):
        return self.boss_animation

    @property
    def player_stats(self):
        return self.__dict__["stats"]

    @player_stats.setter
    def player_stats(self, value):
        if "iudex" in value:
            self.__dict__["stats"] = value

    def check_boss_flags(self, _boss):
        return True

    def timed(self, now, before):
        return now - before

    def get_boss_animation(self, _boss):
        return self.boss_animation

    def reset_player_hp(self):
        self.player_hp = self.player_max_hp

    def reset_boss_hp(self, _boss):
        self.boss_hp = self.iudex_max_hp

    def get_state(self, _boss, use_cache=False):
        del use_cache
        return self._state(
            phase=1, player_hp=self.player_hp, player_max_hp=454, player_sp=self.player_sp,
            player_max_sp=95, boss_hp=self.boss_hp, boss_max_hp=1037,
            player_pose=np.array(self.player_pose), boss_pose=np.array(self.iudex_pose),
            camera_pose=np.array(self.camera_pose), player_animation=self.player_animation,
            boss_animation=self.boss_animation, lock_on=self.lock_on,
        )  # fmt: skip


@pytest.fixture
def released(monkeypatch):
    """Import the released package; yields the list of the games that its environments opened."""
    if not RELEASED.is_dir():
        pytest.fail(f"{RELEASED} is not there; `make` installs SoulsGym 1.1.0 into it")
    known = set(gymnasium.registry)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(RELEASED))
    monkeypatch.delattr(gymnasium.error, "RetriesExceededError", raising=False)
    for name, members in STUBBED.items():
        module = types.ModuleType(name)
        for member, value in members.items():
            setattr(module, member, Nothing if isinstance(value, str) else value)
        monkeypatch.setitem(sys.modules, name, module)
    games = []

    def open_game(_id):
        static = importlib.import_module("soulsgym.core.static")
        state = importlib.import_module("soulsgym.core.game_state")
        games.append(FakeGame(static, state.GameState))
        return games[-1]

    soulsenv = importlib.import_module("soulsgym.envs.soulsenv")
    monkeypatch.setattr(soulsenv, "game_factory", open_game)
    yield games
    for name in set(gymnasium.registry) - known:
        del gymnasium.registry[name]
    for name in [n for n in set(sys.modules) - before if n.split(".")[0] == "soulsgym"]:
        del sys.modules[name]
