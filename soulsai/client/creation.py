"""Environments made from their ids: Gymnasium's, those of packages, and those of files."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium.envs.registration import get_env_id, parse_env_id
from gymnasium.vector import VectorEnv

from soulsai.client import old_gym
from soulsai.client.environment_offer import newest_id
from soulsai.client.games import soulsgym
from soulsai.client.installed_versions import versions_behind
from soulsai.client.wrappers import wrapped
from soulsai.errors import EnvironmentFault
from soulsai.extensions import import_file
from soulsai.types import Kwargs, Wrappers

EXTRAS = ("box2d", "mujoco")  # extras of this package, and families of Gymnasium's environments
MODULES = {"ale_py": "atari", "minigrid": "minigrid"}  # and extras by the module that they bring
BOX2D = "gymnasium.envs.box2d"

RAISED = (Exception, SystemExit)  # an exit of an environment is a fault of it, not of the client


def make(
    id: str, kwargs: Kwargs, max_episode_steps: int = 0, wrappers: Wrappers | None = None
) -> gymnasium.Env[Any, Any]:
    """Make an environment.

    Args:
        id: A Gymnasium id, "module:Id" (an id that the module registers, or a class or function
            in it) or "file.py:make"; "gym:" and any of these for the old Gym.
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
        return wrapped(env, wrappers, find_creator)
    except EnvironmentFault as fault:
        env.close()
        raise EnvironmentFault(f"{id}: {fault}") from None


def make_vector(
    id: str, kwargs: Kwargs, count: int, max_episode_steps: int, wrappers: Wrappers
) -> VectorEnv[Any, Any, Any]:
    """Make many environments at once, as their package itself does.

    Args:
        id: As for ``make``; a function that it names gets ``num_envs``.
        kwargs: Arguments of the environment.
        count: The number of environments.
        max_episode_steps: The limit of an episode; 0 for the package's own.
        wrappers: The wrappers, of which none can be used.

    Raises:
        EnvironmentFault: It cannot be made.
    """
    if wrappers:
        raise EnvironmentFault(
            f"{id}: environment.vector takes the package's own vector environment, which "
            f"{', '.join(wrappers)} cannot wrap; leave out one of the two"
        )
    if id.startswith(old_gym.PREFIX):
        raise EnvironmentFault(
            f"{id}: the old Gym has no vector environments; leave out environment.vector"
        )
    limit: dict[str, Any] = {"max_episode_steps": max_episode_steps} if max_episode_steps else {}
    with _making(id):
        creator = find_creator(id)
        if not isinstance(creator, str):
            if limit:
                raise EnvironmentFault(
                    f"{id}: environment.max_episode_steps cannot limit a vector environment of a "
                    "function; give it to the function in environment.kwargs"
                )
            env = creator(num_envs=count, **kwargs)
        elif gymnasium.spec(creator).vector_entry_point is None:
            raise EnvironmentFault(
                f"{id}: its package has no vector environment; leave out environment.vector"
            )
        else:
            env = gymnasium.make_vec(
                creator, count, vectorization_mode="vector_entry_point", **{**kwargs, **limit}
            )
    if not isinstance(env, VectorEnv):
        raise EnvironmentFault(
            f"{id}: gives {kind_of(env)}, not a gymnasium.vector.VectorEnv; leave out "
            "environment.vector"
        )
    if env.num_envs != count:
        env.close()
        raise EnvironmentFault(
            f"{id}: has {env.num_envs} environments, where environment.count is {count}"
        )
    return env


def _bare(id: str, kwargs: Kwargs, max_episode_steps: int) -> gymnasium.Env[Any, Any]:
    if soulsgym.is_fight(id):
        return soulsgym.make(id, kwargs, max_episode_steps)
    if id.startswith(soulsgym.FORMER):
        raise EnvironmentFault(f"{id}: {soulsgym.FORMER_HINT}")
    with _making(id):
        if id.startswith(old_gym.PREFIX):
            old = id.removeprefix(old_gym.PREFIX)
            return old_gym.make(old, kwargs, max_episode_steps, _defined)
        creator = find_creator(id)
        if isinstance(creator, str):
            _spare_pygame(creator)
            limit = {"max_episode_steps": max_episode_steps} if max_episode_steps else {}
            return gymnasium.make(creator, disable_env_checker=True, **limit, **kwargs)  # type: ignore[arg-type]
        env = creator(**kwargs)
    if not isinstance(env, gymnasium.Env):
        is_old = hasattr(env, "reset") and hasattr(env, "step")
        hint = f"; if it follows the old Gym, environment.id: {old_gym.PREFIX}{id}" * is_old
        raise EnvironmentFault(
            f"{id}: gives {kind_of(env)}, not a gymnasium.Env; return one, whose class inherits "
            f"from gymnasium.Env (not from gym.Env){hint}"
        )
    return gymnasium.wrappers.TimeLimit(env, max_episode_steps) if max_episode_steps else env


@contextmanager
def _making(id: str) -> Iterator[None]:
    """Raise errors of making an environment as an ``EnvironmentFault`` that names the mend."""
    try:
        yield
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
    except RAISED as error:
        if isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled):
            check_extra(id)
        versions = versions_behind(error)
        installed = f" (installed: {versions})" if versions else ""
        raise EnvironmentFault(f"{id}: cannot be made: {error_line(error)}{installed}") from error


def extra_of(id: str) -> str:
    """Return the extra of this package that brings an environment's libraries; empty: none."""
    place, _, name = id.rpartition(":")
    if id.startswith(old_gym.PREFIX):
        return ""
    if place in MODULES:
        return MODULES[place]
    words = _module_of(name).split(".")
    family = words[2] if words[:2] == ["gymnasium", "envs"] and len(words) > 2 else ""
    return family if family in EXTRAS else ""


def _module_of(name: str) -> str:
    """Return the module of a registered environment; empty: the name is not registered."""
    registered = gymnasium.registry.get(newest_id(name))
    return str(registered.entry_point).partition(":")[0] if registered is not None else ""


def _spare_pygame(name: str) -> None:
    """Let Gymnasium import one environment of Box2D where pygame is not installed.

    Their package imports all of them, and CarRacing imports pygame, without which the others only
    have no pictures. The package is therefore put in place as one that imports nothing.
    """
    if not _module_of(name).startswith(f"{BOX2D}.") or BOX2D in sys.modules:
        return
    package = importlib.util.find_spec(BOX2D)
    if package is not None and importlib.util.find_spec("pygame") is None:
        sys.modules[BOX2D] = importlib.util.module_from_spec(package)


def check_extra(id: str) -> None:
    """Raise ``EnvironmentFault`` if the libraries of an environment's extra are not installed."""
    if not (extra := extra_of(id)):
        return
    place, _, name = id.rpartition(":")
    if not place:
        _spare_pygame(name)
    try:
        importlib.import_module(place or _module_of(name))
    except (ImportError, gymnasium.error.DependencyNotInstalled):
        raise EnvironmentFault(
            f'{id}: its libraries are not installed; pip install "soulsai[{extra}]"'
        ) from None


def find_creator(id: str) -> str | Callable[..., Any]:
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
    creator = _defined(place, name)
    if (newest := newest_id(name)) in gymnasium.registry:
        return newest
    if creator is None:
        better = f"{old_gym.PREFIX}{id}" if old_gym.is_registered(name) else _replacement(id)
        hint = f"; environment.id: {better}" if better != id else ""
        raise EnvironmentFault(f"{id}: {place} neither registers nor defines {name!r}{hint}")
    return creator


def _defined(place: str, name: str) -> Callable[..., Any] | None:
    """Import a module or a file, and return the function or class that it defines under a name."""
    is_file = place.endswith(".py")
    module = import_file(Path(place), EnvironmentFault) if is_file else _module(place, name)
    found = vars(module).get(name)
    return found if callable(found) else None


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


def kind_of(value: Any) -> str:
    """Return a phrase for the type of a value."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def error_line(error: BaseException) -> str:
    """Return one line with the exception and its place."""
    ours = Path(__file__).parent  # its lines tell an author nothing
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if ours not in Path(frame.filename).parents]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
