"""Gymnasium environments behind an adapter that checks observations and rewards."""

import functools
import importlib
import inspect
import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import gymnasium
import msgspec
import numpy as np
from gymnasium.envs.registration import get_env_id, parse_env_id

from soulsai.client.action_spaces import NativeActions
from soulsai.client.environment_offer import newest_id
from soulsai.client.games import soulsgym
from soulsai.client.installed_versions import versions_behind
from soulsai.client.own_values import numbered, with_own
from soulsai.client.spaces import (
    Reader,
    holds_mask,
    read_mask,
    read_number,
    read_space,
)
from soulsai.client.wrappers import wrapped
from soulsai.config import schema
from soulsai.errors import ConfigError, EnvironmentFault
from soulsai.extensions import import_file
from soulsai.heads import act, to_environment
from soulsai.types import (
    LARGEST_NUMBER,
    MASK,
    ActionSpec,
    Array,
    Head,
    HeadKind,
    Kwargs,
    Leaf,
    LeafSource,
    Spec,
    Wrappers,
)

log = logging.getLogger(__name__)

Rows = dict[str, Array]  # one row per leaf, written in place
_LARGEST = float(np.finfo(np.float32).max)  # rewards are float32 on the wire

EXTRAS = ("box2d", "mujoco")  # extras of this package, and families of Gymnasium's environments
MODULES = {"ale_py": "atari", "minigrid": "minigrid"}  # and extras by the module that they bring

USUAL_FPS, MOST_FPS = 30, 120  # pictures per second
LARGEST_SEED = 2**31 - 1  # many environments take an int32
_OLD_API = "(before Gym 0.26 it was otherwise; a wrapper such as those of shimmy helps, too)"
_NOTHING_OWN = schema.ClientSettings()
_RAISED = (Exception, SystemExit)  # an exit of an environment is a fault of it, not of the client


class StepResult(NamedTuple):
    """The result of a step, besides the observation."""

    reward: float
    terminated: bool
    truncated: bool


class PlayableEnvironment(Protocol):
    """The interface of an environment for the player."""

    name: str

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
        self,
        env: gymnasium.Env[Any, Any],
        name: str,
        *,
        mask_key: str,
        masked: bool,
        largest_reward: float = _LARGEST,
    ) -> None:
        """Check the spaces of an environment.

        Args:
            env: The environment.
            name: For messages.
            mask_key: The name of the action mask, in the info or in the observation.
            masked: Whether the info holds a mask.
            largest_reward: The largest reward of a step that is taken, with either sign.

        Raises:
            EnvironmentFault: A space is not supported.
        """
        self.name = name
        self._largest_reward = largest_reward
        self.info: dict[str, Any] = {}
        self._env = env
        self._mask_key = mask_key
        try:
            self._spaces = (env.observation_space, env.action_space)
        except AttributeError as error:
            raise EnvironmentFault(
                f"{name}: {error}; set self.observation_space and self.action_space in __init__"
            ) from None
        self._checked = False  # whether reset has left the spaces as they were
        try:
            self._native = NativeActions(env.action_space)
            action = self._native.spec
            self._choices = sum(action.sizes)
            self.mask_in_obs = holds_mask(env.observation_space, mask_key, self._choices)
            without = mask_key if self.mask_in_obs else ""
            readers, left_out = read_space(env.observation_space, without)
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{name}: {error}") from None
        self.left_out = left_out
        for leaf, reason in left_out.items():
            log.warning("env=%s leaf=%s: left out, as %s", name, leaf, reason)
        self._readers = tuple(readers.values())
        self._masked = masked = masked or self.mask_in_obs
        self._first_choices = np.cumsum((0, *action.sizes[:-1]))
        leaves = {reader.name: reader.leaf for reader in self._readers}
        if masked:
            leaves[MASK] = Leaf((self._choices,), "|b1")
        sources = {reader.name: reader.source for reader in self._readers}
        if masked:
            sources[MASK] = LeafSource((mask_key,), info=not self.mask_in_obs)
        self.spec = Spec(leaves, action, sources)
        self._outside: set[str] = set()  # leaves with a category that does not exist, warned of
        self._bounded = tuple(reader for reader in self._readers if _bounded(reader))
        self._limit = _time_limit(env)
        self._ends_twice = False  # whether an end both terminated and truncated was mentioned

    def __repr__(self) -> str:
        return f"AdaptedEnvironment({self.name})"

    def ready(self, timeout: float) -> bool:
        """Return true: it can always be reset."""
        del timeout
        return True

    def reset(self, rows: Rows, seed: int | None = None) -> None:
        """Begin an episode and write its first observation into ``rows``."""
        try:
            returned = self._env.reset(seed=seed)
        except _RAISED as error:
            raise self._raised("reset", error) from error
        if not self._checked:
            self._check_spaces()
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise EnvironmentFault(
                f"{self.name}: reset returns {_kind(returned)} instead of (observation, info); "
                f"write `return observation, {{}}` {_OLD_API}"
            )
        self._read(*returned, rows)
        self._check_mask(rows, "reset")

    def step(self, action: Any, rows: Rows) -> StepResult:
        """Take an action, which counts from zero, and write the observation into ``rows``."""
        try:
            returned = self._env.step(self._native(action))
        except _RAISED as error:
            raise self._raised("step", error) from error
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise EnvironmentFault(
                f"{self.name}: step returns {_kind(returned)} instead of (observation, reward, "
                f"terminated, truncated, info); split `done` into terminated, for an end of the "
                f"game itself, and truncated, for a time limit {_OLD_API}"
            )
        obs, value, terminated, truncated, info = returned
        try:
            reward = float(value) if isinstance(value, float | int) else read_number(value)
            result = StepResult(reward, bool(terminated), bool(truncated))
        except (ValueError, TypeError, RuntimeError) as error:
            raise EnvironmentFault(
                f"{self.name}: step returns a reward or an end of the episode that {error}"
            ) from None
        if result.terminated and result.truncated:
            result = self._one_end(result)
        self._read(obs, info, rows)
        if not -self._largest_reward <= result.reward <= self._largest_reward:
            raise self._refused_reward(result.reward)
        if self._masked and not (result.terminated or result.truncated):
            self._check_mask(rows, "step")
        return result

    def _one_end(self, result: StepResult) -> StepResult:
        """Return an end that is either terminated or truncated.

        An environment may report the end of its time as terminated, too. The limit of a wrapper
        tells such an end from one of the game.
        """
        limit = self._limit
        if limit is not None and (limit._elapsed_steps or 0) >= limit._max_episode_steps:
            return result._replace(terminated=False)
        if not self._ends_twice:
            self._ends_twice = True
            log.warning(
                "env=%s: a step ends the episode as terminated and as truncated, and counts as "
                "terminated; if that is its time limit, set environment.max_episode_steps to it",
                self.name,
            )
        return result

    def gives_mask(self, seed: int) -> bool:
        """Reset with a seed, and return whether the info holds an action mask."""
        try:
            returned = self._env.reset(seed=seed)
        except _RAISED as error:
            raise self._raised("reset", error) from error
        self._check_spaces()
        info = returned[1] if isinstance(returned, tuple) and len(returned) == 2 else None
        return isinstance(info, dict) and self._mask_key in info

    def render(self) -> Any:
        """Return the picture of the present state, as Gymnasium's render mode gives it."""
        try:
            return self._env.render()
        except _RAISED as error:
            raise self._raised("render", error) from error

    @property
    def render_fps(self) -> int:
        """The pictures per second of the environment, or a usual number."""
        fps = getattr(self._env, "metadata", {}).get("render_fps")
        return int(min(max(fps, 1), MOST_FPS)) if isinstance(fps, int | float) else USUAL_FPS

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

    def _check_spaces(self) -> None:
        """Refuse an environment that changes its spaces in its first reset."""
        self._checked = True
        after = (self._env.observation_space, self._env.action_space)
        for kind, before, now in zip(("observation", "action"), self._spaces, after, strict=True):
            if before != now:
                raise EnvironmentFault(
                    f"{self.name}: reset changes the {kind} space from {before} to {now}; set it "
                    "in __init__"
                )

    def _check_mask(self, rows: Rows, where: str) -> None:
        if not self._masked:
            return
        mask = rows[MASK]
        if len(self._first_choices) == 1:
            valid = mask.any()
        else:
            valid = np.logical_or.reduceat(mask, self._first_choices).all()
        if not valid:
            raise EnvironmentFault(
                f"{self.name}: {self._mask_key!r} allows no action after {where}, and the episode "
                "goes on; allow one, or end the episode"
            )

    def _read(self, obs: Any, info: Any, rows: Rows) -> None:
        if not isinstance(info, dict):
            raise EnvironmentFault(
                f"{self.name}: the info is {_kind(info)} instead of a dict; "
                "return {} if there is nothing to say"
            )
        self.info = info
        for reader in self._readers:
            try:
                wrong = reader.read(obs, rows[reader.name])
            except ValueError as error:
                raise EnvironmentFault(
                    f"{self.name}: observation leaf {reader.name!r} {error}"
                ) from None
            if wrong and reader.name not in self._outside:
                self._outside.add(reader.name)
                log.warning("env=%s leaf=%s: %s; said once", self.name, reader.name, wrong)
        if not self._masked:
            if self._mask_key in info:
                raise EnvironmentFault(
                    f"{self.name}: info[{self._mask_key!r}] holds an action mask, and the spec has "
                    "none; give a mask from the first reset on"
                )
            return
        try:
            mask = (obs if self.mask_in_obs else info)[self._mask_key]
        except (KeyError, IndexError, TypeError):
            where = "the observation" if self.mask_in_obs else "info"
            raise EnvironmentFault(
                f"{self.name}: {self._mask_key!r} is missing in {where}; give the action mask with "
                "each reset and each step"
            ) from None
        try:
            read_mask(self._native.mask_parts(mask), self._choices, rows[MASK])
        except ValueError as error:
            place = "the observation" if self.mask_in_obs else "info"
            raise EnvironmentFault(f"{self.name}: {self._mask_key!r} in {place} {error}") from None

    def _refused_reward(self, reward: float) -> EnvironmentFault:
        if not -_LARGEST <= reward <= _LARGEST:
            return EnvironmentFault(f"{self.name}: the reward is not finite: {reward}")
        return EnvironmentFault(
            f"{self.name}: the reward {reward:g} is beyond environment.largest_reward "
            f"({self._largest_reward:g}); raise it, or scale the rewards down"
        )

    def _raised(self, where: str, error: BaseException) -> EnvironmentFault:
        if where == "reset" and isinstance(error, TypeError) and "reset() got an un" in str(error):
            return EnvironmentFault(
                f"{self.name}: {error}; define it as def reset(self, *, seed=None, options=None)"
            )
        if isinstance(error, EnvironmentFault):  # of a wrapper of ours, which says it all
            return EnvironmentFault(str(error))
        return EnvironmentFault(f"{self.name}: {where} raised {_error_line(error)}")


def probe(
    environment: schema.EnvironmentSettings, own: schema.ClientSettings = _NOTHING_OWN
) -> Spec:
    """Return an environment's spec, from its ``spec_file`` or by making and resetting it.

    Args:
        environment: The settings of the environment.
        own: The settings of a client on this machine, whose own values replace those.
    """
    if environment.spec_file:
        return _spec_from(Path(environment.spec_file))
    probed = open_environment(environment, own)
    probed.close()
    return probed.spec


def open_environment(
    environment: schema.EnvironmentSettings, own: schema.ClientSettings
) -> AdaptedEnvironment:
    """Make an environment and reset it once, to find out whether it gives masks.

    Args:
        environment: The settings of the environment.
        own: The settings of a client on this machine, whose own values replace those.
    """
    offer = numbered(with_own(environment.offer, own), 0)
    adapted = functools.partial(
        AdaptedEnvironment,
        make(environment.id, offer.kwargs, offer.max_episode_steps, offer.wrappers),
        environment.id,
        mask_key=offer.mask_key,
        largest_reward=offer.largest_reward,
    )
    opened = adapted(masked=False)
    try:
        if opened.gives_mask(LARGEST_SEED):
            opened = adapted(masked=True)
    except BaseException:
        opened.close()
        raise
    return opened


def random_action(spec: ActionSpec, mask: Array | None, rng: np.random.Generator) -> Any:
    """Draw uniformly among the valid actions, which count from zero.

    Args:
        spec: The actions.
        mask: Valid choices [choices], or none if all are.
        rng: Randomness.
    """
    kinds: dict[str, HeadKind] = {"box": "scaled_gaussian", "hybrid": "hybrid"}
    head = Head(kinds.get(spec.kind, "categorical"))
    numbers, choices = np.zeros((1, len(spec.low))), np.zeros((1, sum(spec.sizes)))
    action, _ = act(
        head,
        spec,
        {"logits": choices, "mean": numbers, "log_std": numbers},
        mask=None if mask is None else mask[None],
        greedy=np.zeros(1, np.bool_),
        epsilon=np.ones(1),
        random=1.0,
        rng=rng,
    )
    return to_environment(head, spec, action[0])


def make(
    id: str, kwargs: Kwargs, max_episode_steps: int = 0, wrappers: Wrappers | None = None
) -> gymnasium.Env[Any, Any]:
    """Make an environment.

    Args:
        id: A Gymnasium id, "module:Id" (an id that the module registers, or a class or function
            in it) or "file.py:make".
        kwargs: Arguments of the environment.
        max_episode_steps: The limit of an episode, in steps of the environment without its
            wrappers; 0 for its own.
        wrappers: The wrappers, from the innermost to the outermost.

    Raises:
        EnvironmentFault: It cannot be made.
    """
    env = _bare(id, kwargs, max_episode_steps)
    if not wrappers:
        return env
    try:
        return wrapped(env, wrappers, _creator)
    except EnvironmentFault as fault:
        env.close()
        raise EnvironmentFault(f"{id}: {fault}") from None


def _bare(id: str, kwargs: Kwargs, max_episode_steps: int) -> gymnasium.Env[Any, Any]:
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
    except (gymnasium.error.DeprecatedEnv, gymnasium.error.VersionNotFound) as error:
        raise EnvironmentFault(
            f"{id}: {' '.join(str(error).split())} (environment.id: {_replacement(id)})"
        ) from None
    except gymnasium.error.NamespaceNotFound as error:
        raise EnvironmentFault(
            f"{id}: cannot be made: {error}; name the module that registers it, as in module:{id}"
        ) from None
    except _RAISED as error:
        if isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled):
            check_extra(id)
        versions = versions_behind(error)
        installed = f" (installed: {versions})" if versions else ""
        raise EnvironmentFault(f"{id}: cannot be made: {_error_line(error)}{installed}") from error
    if not isinstance(env, gymnasium.Env):
        raise EnvironmentFault(
            f"{id}: gives {_kind(env)}, not a gymnasium.Env; return one, whose class inherits "
            "from gymnasium.Env (not from gym.Env)"
        )
    return gymnasium.wrappers.TimeLimit(env, max_episode_steps) if max_episode_steps else env


def extra_of(id: str) -> str:
    """Return the extra of this package that brings an environment's libraries; empty: none."""
    place, _, name = id.rpartition(":")
    if place in MODULES:
        return MODULES[place]
    registered = gymnasium.registry.get(newest_id(name))
    words = str(registered.entry_point).split(".") if registered is not None else []
    family = words[2] if words[:2] == ["gymnasium", "envs"] else ""
    return family if family in EXTRAS else ""


def check_extra(id: str) -> None:
    """Raise ``EnvironmentFault`` if the libraries of an environment's extra are not installed."""
    if not (extra := extra_of(id)):
        return
    try:
        module = id.rpartition(":")[0] or f"gymnasium.envs.{extra}"
        importlib.import_module(module)
    except (ImportError, gymnasium.error.DependencyNotInstalled):
        raise EnvironmentFault(
            f'{id}: its libraries are not installed; pip install "soulsai[{extra}]"'
        ) from None


def _creator(id: str) -> str | Callable[..., Any]:
    """Return the function that makes the environment, or its name in Gymnasium's registry."""
    place, _, name = id.rpartition(":")
    if not place and name.endswith(".py"):
        module = import_file(Path(name), EnvironmentFault)
        own = [key for key, value in vars(module).items() if _makes(value, module)]
        raise EnvironmentFault(
            f"{id}: name what makes the environment, as in {name}:make; the file defines "
            f"{', '.join(own) or 'nothing that does'}"
        )
    if not place:
        return newest_id(id)
    is_file = place.endswith(".py")
    module = import_file(Path(place), EnvironmentFault) if is_file else _module(place, name)
    if (newest := newest_id(name)) in gymnasium.registry:
        return newest
    creator = vars(module).get(name)
    if not callable(creator):
        newest = _replacement(id)
        hint = f"; environment.id: {newest}" if newest != id else ""
        raise EnvironmentFault(f"{id}: {place} neither registers nor defines {name!r}{hint}")
    return creator  # type: ignore[no-any-return]


def _replacement(id: str) -> str:
    """Return the id with its newest registered version, if there is one."""
    place, colon, name = id.rpartition(":")
    with suppress(gymnasium.error.Error):
        namespace, base, _ = parse_env_id(name)
        newest = newest_id(get_env_id(namespace, base, None))
        if newest in gymnasium.registry:
            return f"{place}{colon}{newest}"
    return id


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


def numbers(info: dict[str, object], keys: Sequence[str]) -> dict[str, float]:
    """Return the numbers among those keys of an info, without those too large to send."""
    finite = {}
    for key in keys:
        value = info.get(key)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER:
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


def _time_limit(env: gymnasium.Env[Any, Any]) -> gymnasium.wrappers.TimeLimit[Any, Any] | None:
    """Return the outermost wrapper that limits the steps of an episode."""
    inner: Any = env
    while isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, gymnasium.wrappers.TimeLimit):
            return inner
        inner = inner.env
    return None


def _kind(value: Any) -> str:
    """Return a phrase for the type of a value."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _error_line(error: BaseException) -> str:
    """Return one line with the exception and its place."""
    ours = Path(__file__).parent  # its lines tell an author nothing
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if ours not in Path(frame.filename).parents]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
