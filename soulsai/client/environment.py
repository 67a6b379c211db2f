"""Gymnasium environments behind an adapter that checks observations and rewards."""

import importlib
import importlib.util
import inspect
import logging
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import gymnasium
import msgspec
import numpy as np
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id

from soulsai.client.environment_offer import Kwargs
from soulsai.client.games import soulsgym
from soulsai.client.spaces import Reader, action_spec, action_start, read_mask, readers
from soulsai.config import schema
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.types import MASK, ActionSpec, Array, Leaf, Spec, zeros

log = logging.getLogger(__name__)

Rows = dict[str, Array]  # one row per leaf, written in place
_LARGEST = float(np.finfo(np.float32).max)  # rewards are float32 on the wire

LARGEST_SEED = 2**31 - 1  # many environments take an int32
_RAISED = (Exception, SystemExit)  # an exit of an environment is a fault of it, not of the client


class StepResult(NamedTuple):
    """The result of a step, besides the observation."""

    reward: float
    terminated: bool
    truncated: bool


class PlayableEnvironment(Protocol):
    """The interface of an environment for the player."""

    @property
    def info(self) -> dict[str, Any]:
        """Return the info of the last step."""
        ...

    def ready(self, timeout: float) -> bool:
        """Return whether it can be reset, after at most ``timeout`` seconds of waiting and work."""
        ...

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode and write its first observation into ``rows``."""
        ...

    def step(self, action: Any, rows: Rows, /) -> StepResult:
        """Take an action, which counts from zero, and write the observation into ``rows``."""
        ...

    def check_bounds(self, rows: Rows) -> None:
        """Warn, once per leaf, of values in rows [N, ...] outside the bounds of the space."""
        ...

    def close(self) -> None:
        """Close the environment."""
        ...


class AdaptedEnvironment:
    """One environment; it checks observations and copies them into rows.

    Every error of the environment is raised as an ``EnvironmentFault`` that names it.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], name: str, *, mask_key: str, masked: bool
    ) -> None:
        self.name = name
        self.info: dict[str, Any] = {}
        self._env = env
        self._mask_key = mask_key
        self._masked = masked
        self._space = env.action_space
        self._start = action_start(env.action_space)
        try:
            self._readers = tuple(readers(env.observation_space).values())
            action = action_spec(env.action_space)
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{name}: {error}") from None
        self._choices = sum(action.sizes)
        leaves = {reader.name: reader.leaf for reader in self._readers}
        if masked:
            leaves[MASK] = Leaf((self._choices,), "|b1")
        self.spec = Spec(leaves, action)
        self._bounded = tuple(reader for reader in self._readers if _bounded(reader))

    def __repr__(self) -> str:
        return f"Environment({self.name})"

    def ready(self, timeout: float) -> bool:
        """Return true: it can always be reset."""
        del timeout
        return True

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode and write its first observation into ``rows``."""
        try:
            obs, self.info = self._env.reset(seed=seed)
        except _RAISED as error:
            raise self._raised("reset", error) from error
        if not self._masked and self._mask_key in self.info:
            raise EnvironmentFault(
                f"{self.name}: info[{self._mask_key!r}] holds an action mask, and the run's spec "
                "has none; start the run with the same environment"
            )
        self._read(obs, rows)

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take an action, which counts from zero, and write the observation into ``rows``."""
        try:
            obs, reward, terminated, truncated, self.info = self._env.step(self._native(action))
            outcome = StepResult(float(reward), bool(terminated), bool(truncated))
        except _RAISED as error:
            raise self._raised("step", error) from error
        self._read(obs, rows)
        if not -_LARGEST <= outcome.reward <= _LARGEST:
            raise EnvironmentFault(f"{self.name}: the reward is not finite: {outcome.reward}")
        if self._masked and not rows[MASK].any() and not (outcome[1] or outcome[2]):
            raise EnvironmentFault(
                f"{self.name}: info[{self._mask_key!r}] allows no action, and the episode goes on"
            )
        return outcome

    def check_bounds(self, rows: Rows) -> None:
        """Warn, once per leaf, of values in rows [N, ...] outside the bounds of the space."""
        for reader in self._bounded:
            if wrong := reader.outside(rows[reader.name]):
                log.warning("env=%s leaf=%s: %s; said once", self.name, reader.name, wrong)
                self._bounded = tuple(other for other in self._bounded if other is not reader)

    def close(self) -> None:
        """Close the environment; raise ``EnvironmentFault`` if that fails."""
        try:
            self._env.close()
        except _RAISED as error:
            raise self._raised("close", error) from error

    def _native(self, action: Any) -> Any:
        if self.spec.action.kind == "discrete":
            return np.int64(action + self._start)
        if self.spec.action.kind == "multidiscrete":
            return action.reshape(self._start.shape) + self._start
        return action.astype(self._space.dtype, copy=False)

    def _read(self, obs: Any, rows: Rows) -> None:
        for reader in self._readers:
            try:
                reader.read(obs, rows[reader.name])
            except ValueError as error:
                raise EnvironmentFault(
                    f"{self.name}: observation leaf {reader.name!r} {error}"
                ) from None
        if not self._masked:
            return
        try:
            read_mask(self.info.get(self._mask_key, ()), self._choices, rows[MASK])
        except ValueError as error:
            raise EnvironmentFault(f"{self.name}: info[{self._mask_key!r}] {error}") from None

    def _raised(self, where: str, error: BaseException) -> EnvironmentFault:
        return EnvironmentFault(f"{self.name}: {where} raised {_error_line(error)}")


def probe(environment: schema.EnvironmentSettings, *, steps: int = 0) -> Spec:
    """Return an environment's spec, from its ``spec_file`` or by making and resetting it.

    Args:
        environment: The settings of the environment.
        steps: Random steps to play, which check that the environment keeps to its spaces.
    """
    if environment.spec_file:
        return _spec_from(Path(environment.spec_file))
    id, mask_key = environment.id, environment.mask_key
    env = make(id, environment.kwargs, environment.max_episode_steps)
    try:
        _, info = env.reset(seed=LARGEST_SEED)
        masked = mask_key in info
    except _RAISED as error:
        raise EnvironmentFault(f"{id}: reset raised {_error_line(error)}") from error
    probed = AdaptedEnvironment(env, id, mask_key=mask_key, masked=masked)
    try:
        _play(probed, steps)
    finally:
        probed.close()
    return probed.spec


def _play(environment: AdaptedEnvironment, steps: int) -> None:
    rows = {name: zeros(leaf) for name, leaf in environment.spec.obs.items()}
    environment.reset(rows)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        outcome = environment.step(
            random_action(environment.spec.action, rows.get(MASK), rng), rows
        )
        if outcome.terminated or outcome.truncated:
            environment.reset(rows)
        environment.check_bounds({name: row[None] for name, row in rows.items()})


def random_action(spec: ActionSpec, mask: Array | None, rng: np.random.Generator) -> Any:
    """Draw uniformly among the valid actions, which count from zero.

    Args:
        spec: The actions.
        mask: Valid choices [choices], or none if all are.
        rng: Randomness.
    """
    if spec.kind == "box":
        low, high = np.array(spec.low), np.array(spec.high)
        return rng.uniform(low, high).reshape(spec.shape)
    valid = np.ones(sum(spec.sizes), np.bool_) if mask is None else mask
    parts = np.split(valid, np.cumsum(spec.sizes)[:-1])
    drawn = [int(rng.choice(np.flatnonzero(part))) for part in parts]
    return np.array(drawn).reshape(spec.shape)


def make(id: str, kwargs: Kwargs, max_episode_steps: int = 0) -> gymnasium.Env[Any, Any]:
    """Make an environment.

    Args:
        id: A Gymnasium id, "module:Id" (an id that the module registers, or a class or function
            in it) or "file.py:make".
        kwargs: Arguments of the environment.
        max_episode_steps: The limit of an episode; 0 for the environment's own.

    Raises:
        EnvironmentFault: It cannot be made.
    """
    if soulsgym.is_fight(id):
        return soulsgym.make(id, kwargs, max_episode_steps)
    if id.startswith(soulsgym.FORMER):
        raise EnvironmentFault(f"{id}: {soulsgym.FORMER_HINT}")
    try:
        creator = _creator(id)
        if isinstance(creator, str):
            limit = {"max_episode_steps": max_episode_steps} if max_episode_steps else {}
            return gymnasium.make(creator, disable_env_checker=True, **limit, **kwargs)  # type: ignore[arg-type]
        env = creator(**kwargs)
    except EnvironmentFault:
        raise
    except _RAISED as error:
        raise EnvironmentFault(f"{id}: cannot be made: {_error_line(error)}") from error
    if not isinstance(env, gymnasium.Env):
        raise EnvironmentFault(f"{id}: gives {type(env).__name__}, not a gymnasium.Env")
    return gymnasium.wrappers.TimeLimit(env, max_episode_steps) if max_episode_steps else env


def _creator(id: str) -> str | Callable[..., Any]:
    """Return the function that makes the environment, or its name in Gymnasium's registry."""
    place, _, name = id.rpartition(":")
    if not place and name.endswith(".py"):
        module = _file_module(Path(name))
        own = [key for key, value in vars(module).items() if _makes(value, module)]
        raise EnvironmentFault(
            f"{id}: name what makes the environment, as in {name}:make; the file defines "
            f"{', '.join(own) or 'nothing that does'}"
        )
    if not place:
        return id
    module = _file_module(Path(place)) if place.endswith(".py") else _module(place, name)
    if _registered(name):
        return name
    creator = vars(module).get(name)
    if not callable(creator):
        raise EnvironmentFault(f"{id}: {place} neither registers nor defines {name!r}")
    return creator  # type: ignore[no-any-return]


def _registered(name: str) -> bool:
    """Return whether Gymnasium knows a name, with or without a version."""
    try:
        return get_env_id(*parse_env_id(name)) in gymnasium.registry or bool(
            find_highest_version(*parse_env_id(name)[:2])
        )
    except gymnasium.error.Error:
        return False


def _makes(value: Any, module: ModuleType) -> bool:
    own = getattr(value, "__module__", "") == module.__name__
    return own and (inspect.isfunction(value) or _is_environment(value))


def _is_environment(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, gymnasium.Env)


def _module(place: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        file = Path(*place.split(".")).with_suffix(".py")
        if error.name != place.partition(".")[0] or not file.is_file():
            raise
        raise EnvironmentFault(
            f"{place}:{name}: {place} is not installed; name the file of this folder: {file}:{name}"
        ) from None


def _file_module(path: Path) -> ModuleType:
    """Import a file under a unique name, once per process; it may import its neighbours."""
    if not path.is_file():
        raise EnvironmentFault(f"{path}: no such file (looked for in {Path.cwd()})")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: a neighbour must not replace a package
    name = f"soulsai_environment_{path.resolve().as_posix()}".replace(".", "_").replace("/", "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise EnvironmentFault(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def numbers(info: dict[str, object], keys: Sequence[str]) -> dict[str, float]:
    """Return the finite numbers among those keys of an info."""
    finite = {}
    for key in keys:
        value = info.get(key)
        if isinstance(value, int | float | np.number | np.bool_) and math.isfinite(float(value)):
            finite[key] = float(value)
    return finite


def _spec_from(path: Path) -> Spec:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Spec)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"environment.spec_file: cannot read {path}: {error}") from None


def _bounded(reader: Reader) -> bool:
    """Return whether a value can be outside the declared bounds."""
    kind = np.dtype(reader.leaf.dtype).kind
    if reader.leaf.categories or kind == "b":
        return False
    if kind == "f":
        return bool(np.isfinite(reader.low).any() or np.isfinite(reader.high).any())
    info = np.iinfo(reader.leaf.dtype)
    return bool((reader.low > info.min).any() or (reader.high < info.max).any())


def _error_line(error: BaseException) -> str:
    """Return one line with the exception and its place."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
