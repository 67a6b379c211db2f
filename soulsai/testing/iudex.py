"""A stand-in for SoulsGymIudex-v0: its spaces, masks, reward, pace and faults, on any machine.

The fight behind them is simple: a boss walks up to the player on a plane and hits. The contract
test ``tests/contract/test_soulsgym.py`` holds it to the released SoulsGym.
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
Standing = tuple[float, float, Array]
Fault = Literal["", "hang", "crash", "slow", "leak", "reset"]

PLAYER_HP, PLAYER_SP, BOSS_HP = 454, 95, 1037
PLAYER_ANIMATIONS, BOSS_ANIMATIONS = 50, 32  # of SoulsGym's tables; -1 is an unknown one
LOW, HIGH = (110.0, 540.0, -73.0, -3.1416), (190.0, 640.0, -55.0, 3.1416)
FLOOR = -68.5
CENTRE = np.array([139.0, 596.0])  # of the arena; its reward pulls towards it from 4 m on
STEP, LONGEST = 0.1, 10.0  # seconds of game time
ROLL, LIGHT, HEAVY, PARRY, NOTHING = 8, 16, 17, 18, 19  # 0 to 7 walk, 8 to 15 roll
# Animations by their numbers in SoulsGym's tables
IDLE, MOVE, HURT, ROLLING, LIGHT_BLOW, HEAVY_BLOW, PARRYING = 17, 18, 6, 21, 29, 33, 38
BOSS_ATTACKS, BOSS_WALK, BOSS_IDLE = 17, 19, 23
# Seconds from an animation's start until blows, rolls and steps are obeyed again
TIMINGS = {
    IDLE: (0.0, 0.0, 0.0),
    MOVE: (0.0, 0.0, 0.0),
    HURT: (0.35, 0.35, 0.52),
    ROLLING: (0.69, 0.73, 0.75),
    LIGHT_BLOW: (0.63, 0.8, 1.03),
    HEAVY_BLOW: (1.0, 1.0, 1.0),
    PARRYING: (0.8, 0.9, 0.93),
}
COSTS = {ROLLING: 18, LIGHT_BLOW: 20, HEAVY_BLOW: 32, PARRYING: 14}  # stamina
BLOWS = {LIGHT_BLOW: (0.4, 38), HEAVY_BLOW: (0.6, 70)}  # seconds until it falls, damage
DIARY = "SOULSAI_STAND_IN_DIARY"  # names the file that lists the faults it makes
LEAK_BYTES = 8_000_000  # per step
FAULTS: tuple[Fault, ...] = ("hang", "crash", "slow", "leak", "reset")


class Iudex(gymnasium.Env[Info, np.int64]):
    """A fight against Iudex Gundyr, phase 1.

    Args:
        pace: Real seconds per step of 0.1 s of game time; 0 runs as fast as possible.
        reset_seconds: Real seconds of a reset.
        faults_per_hour: Faults per hour of game time: it hangs in C code, crashes, becomes slow,
            leaks, or fails to reset; all of them equally often.
        lag: The factor by which steps take longer once it is slow.
        only: The one kind of fault to make; empty makes all kinds.
        game_speed: As SoulsGym's argument: divides ``pace``.
        phase: As SoulsGym's argument; the stand-in knows phase 1 only.
        random_player_pose: As SoulsGym's argument: begin anywhere around the boss.
        skip_steps: As SoulsGym's argument: go on while only doing nothing is allowed.
    """

    def __init__(
        self,
        pace: float = 0.0,
        reset_seconds: float = 0.0,
        faults_per_hour: float = 0.0,
        lag: float = 5.0,
        only: Fault = "",
        game_speed: float = 1.0,
        phase: int = 1,
        random_player_pose: bool = False,
        skip_steps: bool = False,
    ) -> None:
        if phase != 1:
            raise ValueError(f"phase {phase}: the stand-in knows phase 1 only")
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
        self._pace, self._reset_seconds = pace / game_speed, reset_seconds
        self._random_player_pose, self._skip_steps = random_player_pose, skip_steps
        self._faults = _FaultMaker(faults_per_hour, lag, only)
        self._next = 0.0  # the time at which the present step ends
        self._fight = _Fight()

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Info, Info]:
        """Put player and boss to their places; takes ``reset_seconds``, and may fail."""
        super().reset(seed=seed, options=options)
        time.sleep(self._reset_seconds)
        self._faults.before_reset()
        turn = self.np_random.uniform(-math.pi, math.pi) if self._random_player_pose else None
        self._fight = _Fight(turn)
        self._next = time.monotonic()
        return self._fight.observation(self.np_random), self._info()

    def step(self, action: np.int64) -> tuple[Info, float, bool, bool, Info]:
        """Let 0.1 s of game time pass; an action that is not allowed is ignored."""
        reward = self._play(int(action))
        while self._skip_steps and not self._fight.allowed()[:NOTHING].any():
            if self._fight.over:
                break
            reward += self._play(NOTHING)
        obs = self._fight.observation(self.np_random)
        return obs, reward, self._fight.over, False, self._info()

    def _play(self, action: int) -> float:
        slower = self._faults.before_step(self._pace or STEP)
        self._next = max(self._next, time.monotonic() - STEP) + self._pace * slower
        time.sleep(max(0.0, self._next - time.monotonic()))
        return self._fight.step(action, self.np_random)

    def _info(self) -> Info:
        return {"action_mask": self._fight.allowed()}


class _Fight:
    """The state of one fight, and its rules."""

    def __init__(self, turn: float | None = None) -> None:
        """Place both; ``turn`` is the direction from boss to player, the usual one by default."""
        self.boss = np.array([141.3, 591.9])
        self.player = np.array([132.2, 575.1])
        if turn is not None:
            self.player = self.boss + 15.0 * _direction(turn)
        self.player_hp, self.player_sp, self.boss_hp = float(PLAYER_HP), float(PLAYER_SP), BOSS_HP
        self.animation, self.since = IDLE, 0.0
        self.boss_animation, self.boss_since, self._boss_left = BOSS_IDLE, 0.0, 0.0
        self._course = np.array([0.0, 1.0])  # direction of a step or roll

    @property
    def over(self) -> bool:
        return self.player_hp <= 0 or self.boss_hp <= 0

    def allowed(self) -> Array:
        """Return the actions that are obeyed now, bool[20], by SoulsGym's rules."""
        blow, roll, walk = (self.since >= seconds - 1e-9 for seconds in TIMINGS[self.animation])
        fit = self.player_sp > 0
        return np.array([walk] * 8 + [roll and fit] * 8 + [blow and fit] * 3 + [True])

    def step(self, action: int, rng: np.random.Generator) -> float:
        """Let both act for a tenth of a second; return the reward as SoulsGym computes it."""
        before = self.player_hp, self.boss_hp, self.player
        self.since, self.boss_since = self.since + STEP, self.boss_since + STEP
        self._act(action if self.allowed()[action] else NOTHING)
        self._boss_acts(rng)
        self.player = np.clip(self.player, [LOW[0], LOW[1]], [HIGH[0], HIGH[1]])
        if not 120 < self.player[0] < 180:
            self.player_hp = 0.0  # the cliff
        self.boss_hp = max(0, self.boss_hp)
        self.player_sp = min(float(PLAYER_SP), self.player_sp + 2.0)
        return reward(before, (self.player_hp, self.boss_hp, self.player))

    def observation(self, rng: np.random.Generator) -> Info:
        """Return the observation as SoulsGym gives it."""
        ahead = _angle(self.boss - self.player)
        unknown = rng.random(2) < 0.01  # animations that SoulsGym's tables lack
        look = np.array([math.cos(ahead), math.sin(ahead), -0.2], np.float32)
        pose = [*self.player, FLOOR, _pose_angle(ahead)]
        boss_pose = [*self.boss, FLOOR, _pose_angle(ahead + math.pi)]
        return {
            "phase": 1,
            "player_hp": np.array([self.player_hp], np.float32),
            "player_max_hp": PLAYER_HP,
            "player_sp": np.array([max(0.0, self.player_sp)], np.float32),
            "player_max_sp": PLAYER_SP,
            "boss_hp": np.array([self.boss_hp], np.float32),
            "boss_max_hp": BOSS_HP,
            "player_pose": np.array(pose, np.float32),
            "boss_pose": np.array(boss_pose, np.float32),
            "camera_pose": np.array([*self.player, FLOOR + 2, *look], np.float32),
            "player_animation": -1 if unknown[0] else self.animation,
            "player_animation_duration": np.array([min(LONGEST, self.since)], np.float32),
            "boss_animation": -1 if unknown[1] else self.boss_animation,
            "boss_animation_duration": np.array([min(LONGEST, self.boss_since)], np.float32),
            "lock_on": 1,
        }

    def _act(self, action: int) -> None:
        if action < LIGHT:
            self._course = _direction(_angle(self.boss - self.player) - action % 8 * math.pi / 4)
        if action < ROLL:
            self._animate(MOVE)
            self.player = self.player + 0.4 * self._course
        elif action < NOTHING:
            started = ROLLING if action < LIGHT else {
                LIGHT: LIGHT_BLOW, HEAVY: HEAVY_BLOW, PARRY: PARRYING
            }[action]  # fmt: skip
            self.player_sp -= COSTS[started]
            self._animate(started, anew=True)
        elif self.since >= max(TIMINGS[self.animation]):
            self._animate(IDLE)
        if self.animation == ROLLING and 0.0 < self.since <= 0.4:
            self.player = self.player + 0.7 * self._course
        falls, damage = BLOWS.get(self.animation, (0.0, 0))
        if damage and abs(self.since - falls) < STEP / 2 and self._distance < 3.5:
            self.boss_hp -= damage

    def _boss_acts(self, rng: np.random.Generator) -> None:
        if self._boss_left > 0:
            self._boss_left -= STEP
            rolls = self.animation == ROLLING and self.since <= 0.4
            if 0.55 < self._boss_left <= 0.65 and self._distance < 4.5 and not rolls:
                if self.animation == PARRYING and self.since <= 0.4:
                    self.boss_hp -= 120
                else:
                    self.player_hp = max(0.0, self.player_hp - rng.integers(90, 180))
                    self._animate(HURT, anew=True)
        elif self._distance < 3.5 and rng.random() < 0.3:
            self.boss_animation, self.boss_since = int(rng.integers(BOSS_ATTACKS)), 0.0
            self._boss_left = 1.6
        elif self._distance > 2.5:
            self._animate_boss(BOSS_WALK)
            self.boss = self.boss + 0.25 * _direction(_angle(self.player - self.boss))
        else:
            self._animate_boss(BOSS_IDLE)

    @property
    def _distance(self) -> float:
        return float(np.linalg.norm(self.boss - self.player))

    def _animate(self, animation: int, *, anew: bool = False) -> None:
        if animation != self.animation or anew:
            self.animation, self.since = animation, 0.0

    def _animate_boss(self, animation: int) -> None:
        if animation != self.boss_animation:
            self.boss_animation, self.boss_since = animation, 0.0


class _FaultMaker:
    """Chooses when the environment fails, and how; never repeatable."""

    def __init__(self, faults_per_hour: float, lag: float, only: Fault) -> None:
        self._rate, self._lag = faults_per_hour / 3600, lag
        self._kinds = (only,) if only else FAULTS
        self._rng = random.Random()
        self._fault: Fault = ""
        self._leaked: list[bytes] = []

    def before_step(self, seconds: float) -> float:
        """Fail now and then; return the factor by which this step takes longer."""
        if not self._fault and self._rng.random() < self._rate * seconds:
            self._fault = self._rng.choice(self._kinds)
            if self._fault != "reset":
                self._record()
        if self._fault == "hang":
            _hang()
        elif self._fault == "crash":
            self._rng.choice((_crash, _leave, _raise))()
        elif self._fault == "leak":
            self._leaked.append(b"\1" * LEAK_BYTES)
        return self._lag if self._fault == "slow" else 1.0

    def before_reset(self) -> None:
        """Fail now and then."""
        if self._fault == "reset":
            self._record()
            self._fault = ""
            raise RuntimeError("Player or boss pose could not be reset")

    def _record(self) -> None:
        if diary := os.environ.get(DIARY):
            with Path(diary).open("a", encoding="utf-8") as file:
                file.write(f"{time.time():.1f} {self._fault}\n")


def reward(before: Standing, after: Standing) -> float:
    """Return SoulsGym's reward of a step of Iudex.

    Args:
        before: Health of the player, health of the boss, and the player's x and y in metres.
        after: The same one step later.
    """
    (hp_before, boss_before, place_before), (hp, boss_hp, place) = before, after
    damage = (boss_before - boss_hp) / BOSS_HP + (hp - hp_before) / PLAYER_HP
    if hp <= 0 or boss_hp <= 0:
        return damage + (0.1 if boss_hp <= 0 else -0.1)
    apart = float(np.linalg.norm(place - CENTRE))
    return damage + 0.01 * (float(np.linalg.norm(place_before - CENTRE)) - apart) * (apart > 4)


def _hang() -> None:
    """Sleep in C code while holding Python's lock."""
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


def _direction(angle: float) -> Array:
    return np.array([math.cos(angle), math.sin(angle)])


def _pose_angle(heading: float) -> float:
    """Return the angle in a pose that faces along ``heading``, within [-pi, pi]."""
    return math.remainder(-heading - math.pi / 2, 2 * math.pi)
