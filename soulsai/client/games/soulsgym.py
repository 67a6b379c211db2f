"""SoulsGym's boss fights as a plain network can learn them: one vector, one mask, one result.

Both SoulsGym 1.1.0 and its later source run unchanged. ``GAMES`` is the one place that knows a
fight: a new boss is a new row.
"""

import ctypes
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from ctypes import wintypes
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from soulsai.errors import EnvironmentFault
from soulsai.types import Array

PACKAGES = ("soulsgym", "soulsai.testing")  # the game, and the stand-in under the same ids
PROCESS = "DarkSoulsIII.exe"
WINDOW = "DARK SOULS III"
ALL_ACCESS = 0x1F0FFF  # the rights to a process that SoulsGym needs
RESOLUTION = (800, 450)  # pixels of the game's window that SoulsGym expects
SIGHT = 50.0  # metres: distances beyond it count as this far
SECONDS = 10.0  # the longest animation
FRAMES = 4  # stacked images of the Img fights
STAND_IN = {"SoulsGymIudex-v0": "Iudex-v0"}  # as soulsai.testing registers it
STAND_IN_PACE = {"pace": 0.1, "reset_seconds": 2.0}  # the game's own
# An argument's name in SoulsGym 1.1.0, and in its later source
SYNONYMS = {"random_player_pose": "init_pose_randomization"}
SYNONYMS |= {new: old for old, new in SYNONYMS.items()}
LEAVES = (
    "phase", "player_hp", "player_max_hp", "player_sp", "player_max_sp", "boss_hp", "boss_max_hp",
    "player_pose", "boss_pose", "camera_pose", "player_animation", "player_animation_duration",
    "boss_animation", "boss_animation_duration", "lock_on",
)  # fmt: skip

# Ids of earlier versions of ours, and the line that refuses them
FORMER = ("soulsai.client.wrappers:", "soulsai.client.games.soulsgym:")
FORMER_HINT = (
    "this id is gone; set environment.id to soulsgym:SoulsGymIudex-v0, or for the stand-in to "
    "soulsai.testing:SoulsGymIudex-v0, without kwargs.game"
)

Info = dict[str, Any]
Obs = dict[str, Any]


class Fight(NamedTuple):
    """A boss fight.

    Attributes:
        centre: x and y of the arena's centre in metres; the reward of Iudex pulls towards it.
        image: Whether the observation is the game's picture instead of its state.
    """

    centre: tuple[float, float] = (0.0, 0.0)
    image: bool = False


GAMES = {
    "SoulsGymIudex-v0": Fight(centre=(139.0, 596.0)),
    "SoulsGymIudexDemo-v0": Fight(centre=(139.0, 596.0)),
    "SoulsGymIudexImg-v0": Fight(image=True),
    "SoulsGymVordt-v0": Fight(centre=(27.5, 19.5)),
}


def is_fight(id: str) -> bool:
    """Return whether ``id`` is ``soulsgym:NAME``, or the stand-in's ``soulsai.testing:NAME``."""
    package, _, name = id.rpartition(":")
    return package in PACKAGES and name.startswith("SoulsGym")


def make(id: str, kwargs: Info, max_episode_steps: int = 0) -> gymnasium.Env[Any, Any]:
    """Make a boss fight with a flat observation, an action mask, and its result in the info.

    Args:
        id: ``soulsgym:SoulsGymIudex-v0``, or another of ``GAMES``.
        kwargs: Arguments of the environment; names of both versions of SoulsGym are understood.
        max_episode_steps: The limit of an episode; 0 keeps SoulsGym's own.

    Raises:
        EnvironmentFault: The fight is unknown, SoulsGym or the game is missing, the game's window
            has another size, or an argument is not one of this version.
    """
    package, _, name = id.rpartition(":")
    known: Collection[str] = GAMES if package == "soulsgym" else STAND_IN
    if name not in known:
        raise EnvironmentFault(f"{id}: no such fight; choose {', '.join(known)}")
    if package == "soulsgym":
        registered = name
    else:
        registered, kwargs = STAND_IN[name], STAND_IN_PACE | kwargs
    create = _creator(id, package, registered)
    limit = {"max_episode_steps": max_episode_steps} if max_episode_steps else {}
    options = arguments(id, create, kwargs)
    if package == "soulsgym":
        for problem in _window_problems():
            raise EnvironmentFault(f"{id}: cannot be made: {'; '.join(problem)}")
    try:
        env = gymnasium.make(registered, disable_env_checker=True, **limit, **options)
    except Exception as error:
        raise EnvironmentFault(f"{id}: cannot be made: {_reason(package, error)}") from error
    return wrap(env, GAMES[name], id)


def wrap(env: gymnasium.Env[Any, Any], fight: Fight, id: str) -> gymnasium.Env[Any, Any]:
    """Return ``env`` with mask and result in its info, and an observation for a plain network.

    Args:
        env: The environment as SoulsGym makes it.
        fight: The row of ``GAMES``.
        id: The environment's id, for errors.
    """
    env = FightResult(env, id)
    if not fight.image:
        return FightVector(env, fight.centre, id)
    grey = gymnasium.wrappers.GrayscaleObservation(env)
    return gymnasium.wrappers.FrameStackObservation(grey, FRAMES)


def arguments(id: str, create: Callable[..., Any], kwargs: Info) -> Info:
    """Return ``kwargs`` by the names that this version of the environment has.

    Args:
        id: The environment's id, for the error.
        create: The environment's class.
        kwargs: Arguments by the names of either version.

    Raises:
        EnvironmentFault: This version has no such argument.
    """
    known = inspect.signature(create).parameters
    named = {}
    for key, value in kwargs.items():
        other = SYNONYMS.get(key, key)
        if key in known:
            named[key] = value
        elif other in known:
            named[other] = value
        elif key != "skip_steps" or value:  # 1.1.0 never skips steps
            names = ", ".join(known) or "none"
            raise EnvironmentFault(
                f"environment.kwargs.{key}: {id} has no such argument in this version of SoulsGym; "
                f"it has {names}"
            )
    return named


def action_mask(info: Info, actions: int) -> Array:
    """Return which actions the game obeys now, as bool[actions].

    SoulsGym 1.1.0 lists the numbers of allowed actions, its later source gives a mask, and an
    image-only fight may give neither; then all actions are allowed.

    Raises:
        ValueError: The mask has another length, or the list holds a number that is no action.
    """
    if "action_mask" in info:
        mask = np.asarray(info["action_mask"])
        if mask.shape != (actions,) or mask.dtype.kind not in "biu":
            raise ValueError(
                f"info['action_mask'] is {mask.dtype}{list(mask.shape)}, not bool[{actions}]"
            )
        return mask.astype(np.bool_)
    allowed = info.get("allowed_actions")
    mask = np.full(actions, allowed is None)
    if allowed is None:
        return mask
    numbers = np.asarray(allowed)
    if numbers.size and (numbers.ndim != 1 or numbers.dtype.kind not in "iu"):
        raise ValueError(f"info['allowed_actions'] is {allowed!r}, not a list of action numbers")
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < actions):
        raise ValueError(f"info['allowed_actions'] is {allowed!r}; actions are 0 to {actions - 1}")
    mask[numbers.astype(np.int64)] = True
    return mask


class FightResult(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Puts ``action_mask``, ``boss_hp`` and ``win`` into the info of each step.

    ``boss_hp`` is in the game's units; ``win`` is 1.0 from the step on in which it reaches 0.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], id: str) -> None:
        super().__init__(env)
        if not isinstance(env.action_space, spaces.Discrete):
            raise EnvironmentFault(f"{id}: the actions are {env.action_space}, not Discrete")
        self._id = id
        self._actions = int(env.action_space.n)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Any, Info]:
        """Begin a fight."""
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, self._with_result(obs, info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Info]:
        """Take one action for a tenth of a second of game time."""
        obs, reward, terminated, truncated, info = self.env.step(int(action))
        return obs, reward, terminated, truncated, self._with_result(obs, info)

    def _with_result(self, obs: Any, info: Info) -> Info:
        try:
            mask = action_mask(info, self._actions)
        except ValueError as error:
            raise EnvironmentFault(f"{self._id}: {error}; check the version of SoulsGym") from None
        said: Info = {"action_mask": mask}
        hp = obs["boss_hp"] if isinstance(obs, dict) else info.get("boss_hp")
        if hp is not None:
            hp = _number(hp)
            said |= {"boss_hp": hp, "win": float(hp <= 0)}
        return {**{key: value for key, value in info.items() if key != "allowed_actions"}, **said}


class FightVector(gymnasium.ObservationWrapper[Array, Any, Obs]):
    """Shows the state of a fight as one float32 vector within [-1, 1].

    In this order, with poses (x, y, z, angle) in metres and radians:

    - phase; health and stamina of the player and health of the boss, as shares; lock-on; the
      durations of both animations, in tens of seconds                                        [7]
    - places of player and boss in the arena                                                  [6]
    - distance and height between them, distance from the centre, in ``SIGHT``                [3]
    - sines, then cosines, of: the bearing from player to boss; the headings of player, boss and
      camera; the boss as seen by the player, the player as seen by the boss, the boss as seen by
      the camera; the bearing to the centre                                                  [16]
    - further numbers between 0 and 1 that only some bosses have, by name
    - the animations of player and boss, one-hot; the first place is an unknown one

    A pose's angle runs clockwise and starts at -y: an angle of ``a`` faces along ``-a - pi/2``.
    """

    def __init__(self, env: gymnasium.Env[Obs, Any], centre: tuple[float, float], id: str) -> None:
        super().__init__(env)
        space = env.observation_space
        missing = set(LEAVES) - set(space) if isinstance(space, spaces.Dict) else LEAVES
        if missing or not isinstance(space, spaces.Dict):
            raise EnvironmentFault(f"{id}: the observation lacks {', '.join(sorted(missing))}")
        self._centre = np.array(centre)
        self._animations = [
            _categories(space, f"{who}_animation", id) for who in ("player", "boss")
        ]
        pose = space["player_pose"]
        if not isinstance(pose, spaces.Box) or pose.shape != (4,):
            raise EnvironmentFault(f"{id}: player_pose is {pose}, not four numbers")
        self._low = pose.low[:3].astype(np.float64)
        self._width = pose.high[:3] - self._low
        self._further = sorted(set(space) - set(LEAVES))
        size = 32 + len(self._further) + sum(count for _, count in self._animations)
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)

    def observation(self, observation: Obs) -> Array:
        """Return the vector of one observation of SoulsGym."""
        numbers = [*self._numbers(observation), *(_number(observation[k]) for k in self._further)]
        one_hot = [
            _one_hot(observation[f"{who}_animation"], start, count)
            for who, (start, count) in zip(("player", "boss"), self._animations, strict=True)
        ]
        return np.concatenate([np.clip(numbers, -1.0, 1.0), *one_hot]).astype(np.float32)

    def _numbers(self, obs: Obs) -> Array:
        player, boss, camera = (
            np.asarray(obs[f"{who}_pose"], np.float64) for who in ("player", "boss", "camera")
        )
        apart = boss[:3] - player[:3]
        inward = self._centre - player[:2]
        bearing = np.arctan2(apart[1], apart[0])
        heading, boss_heading = (-pose[3] - np.pi / 2 for pose in (player, boss))
        gaze = np.arctan2(camera[4], camera[3])
        angles = np.array([
            bearing,
            heading,
            boss_heading,
            gaze,
            bearing - heading,
            bearing + np.pi - boss_heading,
            bearing - gaze,
            np.arctan2(inward[1], inward[0]),
        ])  # fmt: skip
        return np.concatenate([
            [
                2.0 * (obs["phase"] - 1) - 1.0,
                _share(obs, "player_hp", "player_max_hp"),
                _share(obs, "player_sp", "player_max_sp"),
                _share(obs, "boss_hp", "boss_max_hp"),
                2.0 * _number(obs["lock_on"]) - 1.0,
                _number(obs["player_animation_duration"]) / SECONDS,
                _number(obs["boss_animation_duration"]) / SECONDS,
            ],
            2.0 * (player[:3] - self._low) / self._width - 1.0,
            2.0 * (boss[:3] - self._low) / self._width - 1.0,
            [np.hypot(*apart[:2]) / SIGHT, apart[2] / SIGHT, np.hypot(*inward) / SIGHT],
            np.sin(angles),
            np.cos(angles),
        ])  # fmt: skip


def problems(id: str) -> Iterator[tuple[str, str]]:
    """Yield each fact that keeps a fight from starting on this PC, with its remedy.

    Only facts that can be seen before a fight are checked: the package, Python, the operating
    system, the game's process and the right to open it, and the size of its window.
    """
    package, _, name = id.rpartition(":")
    if name not in GAMES:
        yield f"{id}: no such fight", f"choose {', '.join(GAMES)}"
    if package != "soulsgym":
        return
    if sys.platform != "win32":
        yield (
            f"SoulsGym needs Windows and the game; this is {sys.platform}",
            "try soulsai.testing:SoulsGymIudex-v0 here",
        )
    try:
        version = importlib.metadata.version("soulsgym")
    except importlib.metadata.PackageNotFoundError:
        yield "soulsgym is not installed", "pip install soulsgym"
        return
    if version.startswith("1.1.") and name.endswith("Img-v0") and sys.version_info[:2] != (3, 11):
        yield (
            f"soulsgym {version} captures pictures with Python 3.11 only; this is "
            f"{sys.version_info[0]}.{sys.version_info[1]}",
            "play with Python 3.11, or choose a fight without Img",
        )
    if sys.platform == "win32":
        yield from _game_problems()


def _game_problems() -> Iterator[tuple[str, str]]:
    import psutil  # late: most clients never need it, and should stay small

    game = next((p for p in psutil.process_iter(["name"]) if p.info["name"] == PROCESS), None)
    if game is None:
        yield f"{PROCESS} does not run", "start Dark Souls III and load a character"
        return
    if not _may_open(game.pid):
        yield (
            f"{PROCESS} cannot be opened",
            "run the client as the user who runs the game, or as administrator",
        )
    yield from _window_problems()


def _window_problems() -> Iterator[tuple[str, str]]:
    size = _window_size()
    if size and size != RESOLUTION:
        yield (
            f"the game's window is {size[0]} x {size[1]} pixels",
            f"set it to {RESOLUTION[0]} x {RESOLUTION[1]}, windowed, in the game's settings",
        )


def _may_open(pid: int) -> bool:
    """Return whether this user may read and write the memory of a process."""
    if sys.platform != "win32":
        return True
    handle = ctypes.windll.kernel32.OpenProcess(ALL_ACCESS, False, pid)
    if handle:
        ctypes.windll.kernel32.CloseHandle(handle)
    return bool(handle)


def _window_size() -> tuple[int, int] | None:
    """Return width and height of the game's picture in pixels; ``None`` if it has no window."""
    if sys.platform != "win32":
        return None
    window = ctypes.windll.user32.FindWindowW(None, WINDOW)
    rectangle = wintypes.RECT()
    if not window or not ctypes.windll.user32.GetClientRect(window, ctypes.byref(rectangle)):
        return None
    return rectangle.right - rectangle.left, rectangle.bottom - rectangle.top


def _creator(id: str, package: str, name: str) -> Callable[..., Any]:
    """Return the class of an environment that its package registers."""
    # SoulsGym imports this name from Gymnasium, which dropped it in 1.0.
    if not hasattr(gymnasium.error, "RetriesExceededError"):
        lost = type("RetriesExceededError", (gymnasium.error.Error,), {})
        gymnasium.error.RetriesExceededError = lost  # type: ignore[attr-defined]
    try:
        importlib.import_module(package)
        module, _, attribute = str(gymnasium.spec(name).entry_point).partition(":")
        created: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except gymnasium.error.UnregisteredEnv:
        raise EnvironmentFault(f"{id}: this version of {package} has no {name}") from None
    except Exception as error:
        raise EnvironmentFault(f"{id}: cannot be imported: {_reason(package, error)}") from error
    return created


def _reason(package: str, error: Exception) -> str:
    """Return the first fact that keeps a fight from starting, or else the error itself."""
    lacking = next(problems(f"{package}:{next(iter(GAMES))}"), None)
    if lacking is not None:
        return "; ".join(lacking)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _categories(space: spaces.Dict, name: str, id: str) -> tuple[int, int]:
    """Return the first category of a leaf, and how many there are."""
    leaf = space[name]
    if not isinstance(leaf, spaces.Discrete):
        raise EnvironmentFault(f"{id}: {name} is {leaf}, not Discrete")
    return int(leaf.start), int(leaf.n)


def _share(obs: Obs, part: str, whole: str) -> float:
    return _number(obs[part]) / max(1.0, _number(obs[whole]))


def _number(value: Any) -> float:
    return float(np.asarray(value).reshape(-1)[0])


def _one_hot(value: Any, start: int, count: int) -> Array:
    """Return a one-hot row; a category outside the table counts as the first, unknown one."""
    row = np.zeros(count)
    index = int(value) - start
    row[index if 0 <= index < count else 0] = 1.0
    return row
