"""A stand-in for SoulsGymIudex-v0: the same face, the same pace, and the same bad manners.

It is a fight on a plane with a boss who walks up and hits: enough to learn from, and enough to
test everything around it on any machine. Whoever plays it cannot tell it from the game by its
spaces, its masks or its moods.
"""

import ctypes
import math
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from soulsai.types import Array

Info = dict[str, Any]
Mood = Literal["", "hang", "crash", "slow", "leak", "reset"]

PLAYER_HP, PLAYER_SP, BOSS_HP = 454, 95, 1037
PLAYER_ANIMATIONS, BOSS_ANIMATIONS = 51, 32  # of soulsgym's table; another -1 is unknown
LOW, HIGH = (110.0, 540.0, -73.0, -3.1416), (190.0, 640.0, -55.0, 3.1416)
FLOOR = -68.5
STEP, LONGEST = 0.1, 10.0  # seconds of game time
WALK, ROLL, LIGHT, HEAVY, PARRY, NOTHING = 0, 8, 16, 17, 18, 19
# Animation, seconds until the player can act again, stamina
MOVES = {ROLL: (22, 0.7, 18), LIGHT: (30, 0.8, 20), HEAVY: (34, 1.2, 32), PARRY: (38, 0.9, 14)}
IDLE, MOVE, HURT, BOSS_IDLE, BOSS_WALK, BOSS_ATTACK = 17, 18, 6, 23, 19, 0
DIARY = "SOULSAI_STAND_IN_DIARY"  # variable with the file to which it confesses its moods
LEAK_BYTES = 8_000_000  # per step
FAULTY: tuple[Mood, ...] = ("hang", "crash", "slow", "leak", "reset")


class Iudex(gymnasium.Env[Info, np.int64]):
    """Dodge, hit, and do not fall.

    Args:
        pace: Real seconds per step of 0.1 s of game time; 0: as fast as it can.
        reset_seconds: Real seconds of a reset.
        faults_per_hour: How often it hangs in C code, crashes, becomes slow, begins to leak, or
            fails to reset; all of them equally often.
        lag: How much longer steps take once it is slow.
        only: One of these moods, and no other.
    """

    def __init__(
        self,
        pace: float = 0.0,
        reset_seconds: float = 0.0,
        faults_per_hour: float = 0.0,
        lag: float = 5.0,
        only: Mood = "",
    ) -> None:
        low, high = np.array(LOW, np.float32), np.array(HIGH, np.float32)
        looks = np.ones(3, np.float32)
        camera = np.append(low[:3], -looks), np.append(high[:3], looks)
        self.observation_space = spaces.Dict(
            {
                "phase": spaces.Discrete(2, start=1),
                "player_hp": spaces.Box(0, PLAYER_HP),
                "player_max_hp": spaces.Discrete(1, start=PLAYER_HP),
                "player_sp": spaces.Box(0, PLAYER_SP),
                "player_max_sp": spaces.Discrete(1, start=PLAYER_SP),
                "boss_hp": spaces.Box(0, BOSS_HP),
                "boss_max_hp": spaces.Discrete(1, start=BOSS_HP),
                "player_pose": spaces.Box(low, high),
                "boss_pose": spaces.Box(low, high),
                "camera_pose": spaces.Box(camera[0], camera[1], dtype=np.float32),
                "player_animation": spaces.Discrete(PLAYER_ANIMATIONS + 1, start=-1),
                "player_animation_duration": spaces.Box(0.0, LONGEST),
                "boss_animation": spaces.Discrete(BOSS_ANIMATIONS + 1, start=-1),
                "boss_animation_duration": spaces.Box(0.0, LONGEST),
                "lock_on": spaces.Discrete(2),
            }
        )
        self.action_space = spaces.Discrete(20)
        self._pace, self._reset_seconds = pace, reset_seconds
        self._temper = _Temper(faults_per_hour, lag, only)
        self._next = 0.0  # when the present step has to end
        self._fight = _Fight()

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Info, Info]:
        """Put both back to where they begin; takes its time, and may fail."""
        super().reset(seed=seed, options=options)
        time.sleep(self._reset_seconds)
        self._temper.resetting()
        self._fight = _Fight()
        self._next = time.monotonic()
        return self._fight.seen(self.np_random), self._info()

    def step(self, action: np.int64) -> tuple[Info, float, bool, bool, Info]:
        """Let 0.1 s pass."""
        slower = self._temper.stepping(self._pace or STEP)
        if not self._fight.allowed()[int(action)]:
            raise ValueError(f"action {int(action)} is not valid now")
        self._next = max(self._next, time.monotonic() - STEP) + self._pace * slower
        time.sleep(max(0.0, self._next - time.monotonic()))
        reward = self._fight.go(int(action), self.np_random)
        seen = self._fight.seen(self.np_random)
        return seen, reward, self._fight.over, False, self._info()

    def _info(self) -> Info:
        return {"action_mask": self._fight.allowed()}


class _Fight:
    """What happens in the arena, step by step."""

    def __init__(self) -> None:
        self.player, self.boss = np.array([139.0, 590.0]), np.array([139.0, 602.0])
        self.player_hp, self.player_sp, self.boss_hp = float(PLAYER_HP), float(PLAYER_SP), BOSS_HP
        self.action, self.left = IDLE, 0.0  # animation, and seconds until the player can act
        self.acting = NOTHING
        self._course = np.array([0.0, 1.0])  # of a walk or roll
        self.since, self.boss_since = 0.0, 0.0
        self.boss_action, self.boss_left = BOSS_IDLE, 0.0

    @property
    def over(self) -> bool:
        return self.player_hp <= 0 or self.boss_hp <= 0

    def allowed(self) -> Array:
        """Return which actions are valid now."""
        valid = np.ones(20, np.bool_)
        if self.left > 0:
            valid[:NOTHING] = False
        elif self.player_sp <= 0:
            valid[ROLL:NOTHING] = False
        return valid

    def go(self, action: int, rng: np.random.Generator) -> float:
        """Let both act for a tenth of a second, and return the reward."""
        before = self.player_hp / PLAYER_HP - self.boss_hp / BOSS_HP
        self.since, self.boss_since = self.since + STEP, self.boss_since + STEP
        self._act(action)
        self._boss_acts(rng)
        self.player = np.clip(self.player, [LOW[0], LOW[1]], [HIGH[0], HIGH[1]])
        if not 120 < self.player[0] < 180:
            self.player_hp = 0.0  # the cliff
        self.player_sp = min(float(PLAYER_SP), self.player_sp + 2.0)
        reward = self.player_hp / PLAYER_HP - self.boss_hp / BOSS_HP - before
        return reward + (0.1 if self.boss_hp <= 0 else -0.1 if self.player_hp <= 0 else 0.0)

    def seen(self, rng: np.random.Generator) -> Info:
        """Return an observation as the game gives it."""
        ahead = _angle(self.boss - self.player)
        unknown = rng.random(2) < 0.01  # what its table does not know
        look = np.array([math.cos(ahead), math.sin(ahead), -0.2], np.float32)
        return {
            "phase": 1,
            "player_hp": np.array([self.player_hp], np.float32),
            "player_max_hp": PLAYER_HP,
            "player_sp": np.array([max(0.0, self.player_sp)], np.float32),
            "player_max_sp": PLAYER_SP,
            "boss_hp": np.array([max(0, self.boss_hp)], np.float32),
            "boss_max_hp": BOSS_HP,
            "player_pose": np.array([*self.player, FLOOR, ahead], np.float32),
            "boss_pose": np.array([*self.boss, FLOOR, _angle(self.player - self.boss)], np.float32),
            "camera_pose": np.array([*self.player, FLOOR + 2, *look], np.float32),
            "player_animation": -1 if unknown[0] else self.action,
            "player_animation_duration": np.array([min(LONGEST, self.since)], np.float32),
            "boss_animation": -1 if unknown[1] else self.boss_action,
            "boss_animation_duration": np.array([min(LONGEST, self.boss_since)], np.float32),
            "lock_on": 1,
        }

    def _act(self, action: int) -> None:
        if self.left > 0:
            self.left -= STEP
            if 0.35 < self.left <= 0.45 and self._distance < 3.5:  # the blow falls
                self.boss_hp -= {LIGHT: 38, HEAVY: 70}.get(self.acting, 0)
            if self.acting == ROLL and self.left > 0.3:
                self.player = self.player + 0.7 * self._course
            return
        kind = min(action, ROLL) if action < LIGHT else action
        if action < LIGHT:
            self._course = _turned(self.boss - self.player, action % 8)
        if action in (NOTHING, *range(WALK, ROLL)):
            self._animate(IDLE if action == NOTHING else MOVE)
            self.player = self.player + (0.0 if action == NOTHING else 0.4) * self._ahead(action)
            return
        animation, self.left, stamina = MOVES[kind]
        self.acting, self.player_sp = kind, self.player_sp - stamina
        self._animate(animation, anew=True)

    def _boss_acts(self, rng: np.random.Generator) -> None:
        if self.boss_left > 0:
            self.boss_left -= STEP
            rolling = self.acting == ROLL and self.left > 0.3
            parrying = self.acting == PARRY and self.left > 0.5
            if 0.55 < self.boss_left <= 0.65 and self._distance < 4.5 and not rolling:
                if parrying:
                    self.boss_hp -= 120
                else:
                    self.player_hp = max(0.0, self.player_hp - rng.integers(90, 180))
                    self.acting, self.left = NOTHING, 0.5
                    self._animate(HURT, anew=True)
        elif self._distance < 3.5 and rng.random() < 0.3:
            self.boss_action, self.boss_since = BOSS_ATTACK + int(rng.integers(17)), 0.0
            self.boss_left = 1.6
        elif self._distance > 2.5:
            if self.boss_action != BOSS_WALK:
                self.boss_action, self.boss_since = BOSS_WALK, 0.0
            self.boss = self.boss + 0.25 * _turned(self.player - self.boss, 0)
        elif self.boss_action != BOSS_IDLE:
            self.boss_action, self.boss_since = BOSS_IDLE, 0.0

    @property
    def _distance(self) -> float:
        return float(np.linalg.norm(self.boss - self.player))

    def _ahead(self, action: int) -> Array:
        return self._course if action != NOTHING else np.zeros(2)

    def _animate(self, animation: int, *, anew: bool = False) -> None:
        if animation != self.action or anew:
            self.action, self.since = animation, 0.0


class _Temper:
    """When it misbehaves, and how."""

    def __init__(self, faults_per_hour: float, lag: float, only: Mood) -> None:
        self._rate, self._lag = faults_per_hour / 3600, lag
        self._kinds = (only,) if only else FAULTY
        self._rng = random.Random()  # its moods are nobody's to repeat
        self._mood: Mood = ""
        self._leaked: list[bytes] = []

    def stepping(self, seconds: float) -> float:
        """Misbehave now and then; return how much longer this step takes."""
        if not self._mood and self._rng.random() < self._rate * seconds:
            self._mood = self._rng.choice(self._kinds)
            if self._mood != "reset":
                self._confess()
        if self._mood == "hang":
            _hang()
        elif self._mood == "crash":
            self._rng.choice((_crash, _leave, _raise))()
        elif self._mood == "leak":
            self._leaked.append(b"\1" * LEAK_BYTES)
        return self._lag if self._mood == "slow" else 1.0

    def resetting(self) -> None:
        """Fail now and then."""
        if self._mood == "reset":
            self._confess()
            self._mood = ""
            raise RuntimeError("Player or boss pose could not be reset")

    def _confess(self) -> None:
        if diary := os.environ.get(DIARY):
            with Path(diary).open("a") as file:
                file.write(f"{time.time():.1f} {self._mood}\n")


def _hang() -> None:
    """Sleep in C code without letting go of Python's lock."""
    if sys.platform == "win32":
        ctypes.PyDLL("kernel32").Sleep(10**9)
    else:
        ctypes.PyDLL(None).sleep(10**6)


def _crash() -> None:
    ctypes.string_at(0)


def _leave() -> None:
    os._exit(3)


def _raise() -> None:
    raise RuntimeError("Player does not seem to be ingame")


def _angle(vector: Array) -> float:
    return math.atan2(vector[1], vector[0])


def _turned(vector: Array, eighths: int) -> Array:
    """Return the direction that lies so many eighths of a turn beside a vector, of length 1."""
    angle = _angle(vector) + eighths * math.pi / 4
    return np.array([math.cos(angle), math.sin(angle)])
