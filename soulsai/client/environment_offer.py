"""Which environments a server may ask for, and whether ours is the one that the run is about."""

from collections.abc import Sequence

import gymnasium
import numpy as np

from soulsai.errors import ConfigError
from soulsai.types import EnvironmentOffer, Leaf, Spec

MOST_ENVIRONMENTS = 256  # that a server may ask of one client

Kwargs = dict[str, str | int | float | bool | None]


def check_offer(
    offer: EnvironmentOffer, *, named: str, listed: Sequence[str], own_kwargs: Kwargs
) -> str:
    """Return the id to play, or raise ``ConfigError`` if the server may not ask for it.

    Args:
        offer: What the server would like played.
        named: What the user named himself; it is played in place of the offer's id.
        listed: The ids that the client's own configuration allows.
        own_kwargs: Those of the client's own configuration, which may hold paths.
    """
    if not 1 <= offer.count <= MOST_ENVIRONMENTS:
        raise ConfigError(f"the server asks for {offer.count} environments in one client")
    for key, value in offer.kwargs.items():
        foreign = key not in own_kwargs or own_kwargs[key] != value
        if foreign and isinstance(value, str) and ("/" in value or "\\" in value):
            raise ConfigError(
                f"the server asks for {offer.id!r} with a path in {key}={value!r}; if you want "
                f"that, set environment.kwargs.{key} to the same value in your own configuration"
            )
    if named:
        return named
    if offer.id in listed or (not listed and _ships_with_gymnasium(offer.id)):
        return offer.id
    raise ConfigError(
        f"the server asks for the environment {offer.id!r}, which this client does not allow; "
        f"add it to client.environments in config.yaml, or name it with --env {offer.id}"
    )


def difference(ours: Spec, theirs: Spec) -> str:
    """Say how an environment differs from a run's spec, or return an empty string.

    Bounds of observations are not compared: they are only for information.
    """
    differences = [
        f"leaf {name!r} is {_shown(ours.obs.get(name))} here and {_shown(theirs.obs.get(name))} "
        "in the run"
        for name in dict.fromkeys([*ours.obs, *theirs.obs])
        if _shown(ours.obs.get(name)) != _shown(theirs.obs.get(name))
    ]
    if not differences and list(ours.obs) != list(theirs.obs):
        differences.append(f"the leaves' order is {list(ours.obs)} here, {list(theirs.obs)} there")
    if ours.action != theirs.action:
        differences.append(f"the actions are {ours.action} here and {theirs.action} in the run")
    return "; ".join(differences)


def _ships_with_gymnasium(id: str) -> bool:
    registered = gymnasium.registry.get(id)
    if registered is None or ":" in id or ".py" in id:
        return False
    entry = registered.entry_point
    return isinstance(entry, str) and entry.startswith("gymnasium.envs.")


def _shown(leaf: Leaf | None) -> str:
    if leaf is None:
        return "missing"
    categories = f" of {leaf.categories} categories" if leaf.categories else ""
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}{categories}"
