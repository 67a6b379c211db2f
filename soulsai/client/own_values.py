"""The values of an environment's arguments that a client has for itself.

A run lists the arguments that each client may set (``environment.client_kwargs``). The placeholder
``{index}`` in a text becomes a number that no other environment of this machine's run has.
"""

import re
from typing import Any

import msgspec

from soulsai.config.schema import LARGEST_NAME, LIMIT, MOST_CLIENT_KWARGS, ClientSettings
from soulsai.errors import ConfigError
from soulsai.types import ClientValues, EnvironmentOffer

_INDEX = re.compile(r"\{(?:(\d{1,9})\+)?index\}")
_DIGITS = re.compile(r"\d{1,15}")
LONGEST_TEXT = 100  # of a value in the record
LARGEST_NUMBER = 2**53  # that JSON keeps exactly


def with_own(offer: EnvironmentOffer, own: ClientSettings) -> EnvironmentOffer:
    """Return an offer in which this client's own values replace the run's.

    Args:
        offer: The run's environment.
        own: The client's settings.

    Raises:
        ConfigError: The client has a value that the run does not let clients set.
    """
    limit = own.max_episode_steps
    given = [*(f"kwargs.{name}" for name in own.kwargs), *([LIMIT] if limit is not None else [])]
    refused = [path for path in given if path.removeprefix("kwargs.") not in offer.client_kwargs]
    if refused:
        listed = ", ".join(offer.client_kwargs) or "nothing"
        raise ConfigError(
            f"client.{refused[0]}: the run lets clients set {listed}; remove this value, or list "
            f"{refused[0].removeprefix('kwargs.')} in the run's environment.client_kwargs"
        )
    return msgspec.structs.replace(
        offer,
        kwargs=offer.kwargs | own.kwargs,
        schedule=tuple(
            msgspec.structs.replace(stage, kwargs=stage.kwargs | own.kwargs)
            for stage in offer.schedule
        ),
        wrappers=own.wrappers | {n: w for n, w in offer.wrappers.items() if n not in own.wrappers},
        max_episode_steps=offer.max_episode_steps if limit is None else limit,
    )


def listed_only(own: ClientSettings, offer: EnvironmentOffer) -> ClientSettings:
    """Return a client's settings without the own values that an offer does not list."""
    kwargs = {name: value for name, value in own.kwargs.items() if name in offer.client_kwargs}
    limit = own.max_episode_steps if LIMIT in offer.client_kwargs else None
    return msgspec.structs.replace(own, kwargs=kwargs, max_episode_steps=limit)


def numbered(offer: EnvironmentOffer, index: int) -> EnvironmentOffer:
    """Return an offer in which ``{index}`` is a number, and ``{5005+index}`` a sum with it.

    A text that consists of digits alone after that becomes an integer.
    """
    return msgspec.structs.replace(
        offer,
        kwargs=_numbered(offer.kwargs, index),
        schedule=tuple(
            msgspec.structs.replace(stage, kwargs=_numbered(stage.kwargs, index))
            for stage in offer.schedule
        ),
    )


def index_of(number: int, count: int, place: int) -> int:
    """Return the index of an environment; 0 is left to processes that only read its spaces.

    Args:
        number: The number of the client on its machine, from 1.
        count: The environments of each client.
        place: The place of the environment in the client, from 0.
    """
    return (number - 1) * count + place + 1


def for_record(offer: EnvironmentOffer, stage: int = 0) -> ClientValues:
    """Return the values that differ among episodes of a run, in a bounded form for the record.

    These are those that the run lets clients set, and those of its schedule.

    Args:
        offer: The run's environment.
        stage: The number of stages of the schedule that have begun.
    """
    values = offer.at_stage(stage).kwargs | {LIMIT: offer.max_episode_steps}
    scheduled = [name for each in offer.schedule for name in each.kwargs]
    named = dict.fromkeys([*offer.client_kwargs, *scheduled])
    listed = [name for name in named if name in values]
    fit = [name for name in listed if name.isprintable() and len(name) <= LARGEST_NAME]
    return {name: _bounded(values[name]) for name in fit[:MOST_CLIENT_KWARGS]}


def _numbered(value: Any, index: int) -> Any:
    if isinstance(value, dict):
        return {name: _numbered(inner, index) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_numbered(inner, index) for inner in value]
    if not isinstance(value, str) or not _INDEX.search(value):
        return value
    text = _INDEX.sub(lambda found: str(int(found[1] or 0) + index), value)
    return int(text) if _DIGITS.fullmatch(text) else text


def _bounded(value: Any) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) <= LARGEST_NUMBER:
        return value
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:LONGEST_TEXT]
