"""Environments of Gym, the predecessor of Gymnasium, through shimmy (ids ``gym:...``)."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import gymnasium

from soulsai.errors import EnvironmentFault
from soulsai.types import Kwargs

PREFIX = "gym:"
_PACKAGES = "shimmy[gym-v26]"


class _OldEnvironment(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment behind shimmy, which may have no way to set its seed."""

    def __init__(self, env: gymnasium.Env[Any, Any], *, takes_seed: bool) -> None:
        super().__init__(env)
        self._takes_seed = takes_seed

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        return self.env.reset(seed=seed if self._takes_seed else None, options=options)


def make(
    id: str,
    kwargs: Kwargs,
    max_episode_steps: int,
    find: Callable[[str, str], Callable[..., Any] | None],
) -> gymnasium.Env[Any, Any]:
    """Make an environment of the old API, in the form of Gym 0.26 or in that before.

    Args:
        id: An id in the registry of gym, "module:Id", "module:Class" or "file.py:Class".
        kwargs: Arguments of the environment.
        max_episode_steps: The limit of an episode; 0 for that of its registration.
        find: Imports a module or a file, and returns what it defines under a name.

    Raises:
        EnvironmentFault: There is no such environment, or a package is missing.
    """
    try:
        registration = importlib.import_module("gym.envs.registration")
        shimmy = importlib.import_module("shimmy.openai_gym_compatibility")
    except ImportError as error:
        raise EnvironmentFault(
            f"{PREFIX}{id}: environments of the old Gym need shimmy and gym; pip install "
            f'"{_PACKAGES}" ({error})'
        ) from None
    place, _, name = id.rpartition(":")
    defined = find(place, name) if place else None
    registered = registration.registry.get(name)
    limit = max_episode_steps
    if registered is not None:
        kwargs, limit = registered.kwargs | kwargs, limit or registered.max_episode_steps
        entry = registered.entry_point
        defined = entry if callable(entry) else registration.load(entry)
    if defined is None:
        raise EnvironmentFault(
            f"{PREFIX}{id}: {place or 'gym'} neither registers nor defines {name!r}"
        )
    old = defined(**kwargs)
    if _is_of_026(old.reset()):
        new, takes_seed = shimmy.GymV26CompatibilityV0(env=old), True
    else:
        new, takes_seed = shimmy.GymV21CompatibilityV0(env=old), hasattr(old, "seed")
    new.spec = None  # that of gym has another form
    env = _OldEnvironment(new, takes_seed=takes_seed)
    return gymnasium.wrappers.TimeLimit(env, limit) if limit else env


def is_registered(name: str) -> bool:
    """Return whether gym, if something has imported it, registers an id."""
    registration = sys.modules.get("gym.envs.registration")
    return registration is not None and name in registration.registry


def _is_of_026(returned: Any) -> bool:
    """Return whether a reset gives an observation and an info."""
    return isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)
