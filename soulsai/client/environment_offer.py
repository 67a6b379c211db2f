"""The environments that a server may request, and the comparison of two specs."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import gymnasium
import msgspec
import numpy as np
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id

from soulsai.algorithms.spec_text import describe_action
from soulsai.client.own_values import listed_only, with_own
from soulsai.client.wrappers import check_wrappers
from soulsai.config.schema import ClientSettings
from soulsai.errors import ConfigError
from soulsai.types import (
    MOST_ENVIRONMENTS,
    ActionSpec,
    EnvironmentOffer,
    Kwargs,
    Leaf,
    Spec,
    Wrappers,
)


def check_offer(
    offer: EnvironmentOffer,
    *,
    named: str,
    listed: Sequence[str],
    own_kwargs: Kwargs,
    own_stages: Sequence[Kwargs] = (),
    own_wrappers: Wrappers | None = None,
    allowed_wrappers: Sequence[str] = (),
) -> str:
    """Return the id to play.

    Args:
        offer: The server's request.
        named: An id named by the user, which replaces the offer's.
        listed: The ids that the client's own configuration allows.
        own_kwargs: The arguments in the client's own configuration, which may hold paths.
        own_stages: Those of each stage of the schedule there, which may, too.
        own_wrappers: The wrappers in the client's own configuration.
        allowed_wrappers: The names of others that it allows.

    Raises:
        ConfigError: The client does not allow the offer.
    """
    if not 1 <= offer.count <= MOST_ENVIRONMENTS:
        raise ConfigError(
            f"the server requests {offer.count} environments of one client; at most "
            f"{MOST_ENVIRONMENTS} are allowed"
        )
    every = [offer.kwargs, *(stage.kwargs for stage in offer.schedule)]
    for key, value in (pair for kwargs in every for pair in kwargs.items()):
        ours = [kwargs[key] for kwargs in (own_kwargs, *own_stages) if key in kwargs]
        foreign = value not in ours
        if foreign and any("/" in text or "\\" in text for text in _strings(value)):
            raise ConfigError(
                f"the server requests {offer.id!r} with a path in {key}={value!r}; if you want "
                f"that, set environment.kwargs.{key} to the same value in your own configuration"
            )
    check_wrappers(offer, own_wrappers or {}, allowed_wrappers)
    if named:
        return named
    if offer.id in listed or (not listed and _ships_with_gymnasium(offer.id)):
        return offer.id
    raise ConfigError(
        f"the server requests the environment {offer.id!r}, which this client does not allow; "
        f"add it to client.environments in config.yaml, or name it with --env {offer.id}"
    )


def offer_of_policy(
    environment: EnvironmentOffer, own: ClientSettings, named: str
) -> tuple[str, EnvironmentOffer]:
    """Return the id and the environment of a policy's card, with the values of this machine.

    A person who names the environment has chosen to play it, and allows what the card asks for.

    Args:
        environment: The environment of the card; its last stage is played.
        own: The settings of a client on this machine.
        named: An id named by the user, which replaces the card's; empty: the card's.

    Raises:
        ConfigError: The client does not allow it.
    """
    last = environment.last
    offer = with_own(environment, listed_only(own, environment)).last
    id = check_offer(
        offer,
        named=named,
        listed=(),
        own_kwargs=own.kwargs | (last.kwargs if named else {}),
        own_wrappers=own.wrappers | (environment.wrappers if named else {}),
        allowed_wrappers=own.allowed_wrappers,
    )
    return id, offer


def difference(ours: Spec, theirs: Spec) -> str:
    """Return the differences between an environment's and a run's spec, or an empty string.

    Bounds of observations, and the values of first choices, are for information and not compared.
    """
    differences = []
    for name in dict.fromkeys([*ours.obs, *theirs.obs]):
        here, there = _leaf_text(ours.obs.get(name)), _leaf_text(theirs.obs.get(name))
        if here != there:
            differences.append(f"leaf {name!r} is {here} here and {there} in the run")
    if not differences and list(ours.obs) != list(theirs.obs):
        differences.append(f"the leaves' order is {list(ours.obs)} here, {list(theirs.obs)} there")
    if _counted_from_zero(ours.action) != _counted_from_zero(theirs.action):
        here, there = _action_texts(ours.action, theirs.action)
        differences.append(f"the actions are {here} here and {there} in the run")
    return "; ".join(differences)


def _action_texts(here: ActionSpec, there: ActionSpec) -> tuple[str, str]:
    """Return two actions in words that differ as the actions do."""
    words = describe_action(here), describe_action(there)
    if words[0] != words[1]:
        return words
    ours, theirs = map(msgspec.structs.asdict, map(_counted_from_zero, (here, there)))
    names = [name for name in ours if ours[name] != theirs[name]]
    first, second = (
        f"{text} ({', '.join(f'{name} {values[name]}' for name in names)})"
        for text, values in zip(words, (ours, theirs), strict=True)
    )
    return first, second


def _counted_from_zero(action: ActionSpec) -> ActionSpec:
    return msgspec.structs.replace(action, start=(), native_shape=(), parts=())


def newest_id(id: str) -> str:
    """Return the newest registered version of an id without a version; any other id as it is."""
    with suppress(gymnasium.error.Error):
        namespace, name, version = parse_env_id(id)
        if version is None and id not in gymnasium.registry:
            return get_env_id(namespace, name, find_highest_version(namespace, name))
    return id


def _strings(value: Any) -> Iterator[str]:
    """Yield all texts in a value of lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *_strings(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _ships_with_gymnasium(id: str) -> bool:
    if ":" in id or ".py" in id:
        return False
    registered = gymnasium.registry.get(newest_id(id))
    if registered is None:
        return False
    entry = registered.entry_point
    return isinstance(entry, str) and entry.startswith("gymnasium.envs.")


def _leaf_text(leaf: Leaf | None) -> str:
    if leaf is None:
        return "missing"
    categories = f" of {leaf.categories} categories" if leaf.categories else ""
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}{categories}"
